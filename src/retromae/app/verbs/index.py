"""retromae index"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from retromae.app.flags import console, with_flags
from retromae.app.queries import read_queries
from retromae.core.config import options
from retromae.core.errors import UserError
from retromae.core.files import write_json
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.index import build_index
from retromae.retrieval.kinds import KINDS, Kind
from retromae.retrieval.shards import VectorStore
from retromae.retrieval.tradeoff import COLUMNS, draw, measure, near, rows_of
from retromae.retrieval.vectors import Vectors


@with_flags({f"kind {kind}": options(parameters) for kind, parameters in KINDS.items()})
def command(
    vectors: Annotated[str, typer.Argument(help="folder that `retromae encode` made")],
    flags: dict[str, Any],
    out: Annotated[str, typer.Option("--out", help="folder to write")] = "index",
    kind: Annotated[Kind, typer.Option("--kind", help="how the dense half is searched")] = "flat",
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="measure every kind against flat instead, ivfpq from 256 passages on; `out` gets a table and drawings",
        ),
    ] = False,
    queries: Annotated[
        str | None,
        typer.Option(
            "--queries", help="file of queries to compare with (default: documents with noise added)"
        ),
    ] = None,
    most_queries: Annotated[int, typer.Option("--most_queries", help="how many to compare with")] = 200,
    k: Annotated[int, typer.Option("-k", help="results of each query to compare")] = 10,
) -> None:
    """Index a folder of vectors, with the lexical half beside the dense one where there is one."""
    store = VectorStore(vectors)
    if compare:
        if flags:
            raise UserError(
                f"--compare goes through the kinds' own settings; leave out --{next(iter(flags))}."
            )
        return _compare(store, _queries(store, queries, most_queries), Path(out), k)
    index = build_index(store, out, kind, **flags)
    lexical = " and the lexical half" if index.lexical is not None else ""
    line = f"{len(index):,} passages, {kind}, {index.size / 2**20:,.1f} MiB{lexical}: {out}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _queries(store: VectorStore, file: str | None, most: int) -> Vectors:
    if most < 1:
        raise UserError(f"at least one query is needed to compare with, not {most}.")
    if file is None:
        return near(store, most)
    texts = list(read_queries(file).values())[:most]
    encoder = Encoder.open(store.manifest.source, **store.manifest.settings)
    return encoder.encode_queries(texts)


def _compare(store: VectorStore, queries: Vectors, out: Path, k: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    figures = measure(store, queries, k=k, folder=out)
    title = (
        f"{len(store):,} vectors of {store.manifest.dimension} dimensions, {len(queries)} queries, recall@{k}"
    )
    table = Table(title=title, box=None)
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if number else "left")
    for row in rows_of(figures):
        table.add_row(*row)
    console.print(table)
    write_json(out / "tradeoff.json", {"title": title, "figures": [asdict(one) for one in figures]})
    for ending in ("png", "svg"):
        draw(figures, out / f"tradeoff.{ending}", title=title)
    console.print(
        f"Written to {out}: tradeoff.json, tradeoff.png, tradeoff.svg", highlight=False, soft_wrap=True
    )
