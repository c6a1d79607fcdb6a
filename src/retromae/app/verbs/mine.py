"""retromae mine"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from retromae.app.encoders import EncoderSettings
from retromae.app.flags import SettingsFile, console, split_settings, with_flags
from retromae.core import distributed
from retromae.core.config import options
from retromae.core.distributed import writes
from retromae.core.errors import UserError
from retromae.core.ranking import write_trec
from retromae.text.pairs import Pairs
from retromae.training.cross_encoder import is_cross_encoder
from retromae.training.mining_report import sample, summary
from retromae.training.negatives import MineConfig, mine, mine_bm25, reject_by_teacher
from retromae.training.published_negatives import is_published, read_published


@with_flags({"what is kept": options(MineConfig), "how the model is opened": options(EncoderSettings)})
def command(
    flags: dict[str, Any],
    model: Annotated[
        str,
        typer.Argument(
            help="what finds them: a run, a model's folder, a hub name, or bm25; or a .jsonl of published ones"
        ),
    ],
    pairs: Annotated[str, typer.Option("--pairs", help="queries with the passages that answer them")],
    out: Annotated[str, typer.Option("--out", help="folder to write the negatives to")],
    split: Annotated[str, typer.Option("--split", help="part of the pairs")] = "train",
    cache: Annotated[
        str | None, typer.Option("--cache", help="where texts are kept for random access")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="a cross-encoder that rejects candidates that may be right"),
    ] = None,
    teacher_margin: Annotated[
        float, typer.Option("--teacher_margin", help="kept: what it scores below the answer minus this")
    ] = 0.0,
    trec: Annotated[
        str | None, typer.Option("--trec", help="also write the candidates as a run in TREC's format")
    ] = None,
    settings: SettingsFile = None,
) -> None:
    """Find hard negatives for the training queries: near misses of a retriever that are not known to be right."""
    rules, encoder = split_settings(flags, settings, MineConfig, EncoderSettings)
    distributed.start()
    folder = Path(out)
    if folder.exists():
        raise UserError(f"'{folder}' exists already; choose another folder, or delete it.")
    if teacher is not None and not is_cross_encoder(teacher):  # before anything is mined
        raise UserError(f"'{teacher}' is no cross-encoder; train one with `retromae teach` first.")
    data = Pairs.open(pairs, split, cache=cache)
    if model == "bm25":
        found = mine_bm25(data, rules)
    elif is_published(model):
        found = read_published(model, data, rules)
    else:
        work = folder.with_name(f".{folder.name}.work")  # kept after a kill: vectors are not made twice
        found = mine(encoder.open(model), data, work, rules, progress=writes())
    if teacher is not None:
        found = reject_by_teacher(found, data, teacher, teacher_margin, progress=writes())
    if writes():
        found.write(folder, data)
        (folder / "sample.md").write_text(sample(found, data), encoding="utf-8")
        if trec:
            write_trec(trec, found.to_run(data))
        console.print(summary(found, folder), highlight=False, soft_wrap=True)
    distributed.barrier()
