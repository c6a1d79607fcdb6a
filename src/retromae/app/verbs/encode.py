"""retromae encode"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from retromae.app.encoders import CorpusEncoderSettings, FieldSettings, corpus_of
from retromae.app.flags import PrintConfig, SettingsFile, console, split_settings, with_flags
from retromae.core.config import options, setting, to_dict, to_yaml
from retromae.core.distributed import rank, world_size
from retromae.retrieval.embed import SHARD_SIZE, embed_corpus


@dataclass
class EncodeConfig:
    """One corpus to one folder of vectors."""

    corpus: list[str] = setting(
        [], "BEIR, MS MARCO or DPR folder, .jsonl, .csv, .tsv or .parquet file, folder of texts"
    )
    out: str = setting("vectors", "folder for the vectors; an interrupted one is gone on with")
    dtype: Literal["float32", "float16"] = setting("float32", "numbers that are stored")
    shard_size: int = setting(
        SHARD_SIZE, "documents of a shard; after a kill at most one per process is made again"
    )


@with_flags(
    {
        "corpus": [*options(EncodeConfig), *options(FieldSettings)],
        "encoder": options(CorpusEncoderSettings),
    }
)
def command(
    model: Annotated[
        str, typer.Argument(help="checkpoint, SentenceTransformer or encoder: folder or hub name")
    ],
    flags: dict[str, Any],
    settings: SettingsFile = None,
    print_config: PrintConfig = False,
) -> None:
    """Encode a corpus to vectors on disk. Give the same command again to go on; torchrun shares the work."""
    config, fields, chosen = split_settings(
        flags, settings, EncodeConfig, FieldSettings, CorpusEncoderSettings
    )
    if print_config:
        everything = {"model": model, **to_dict(config), **to_dict(fields), **to_dict(chosen)}
        return console.print(to_yaml(everything), highlight=False, markup=False)
    documents = corpus_of(config.corpus, fields)
    encoder = chosen.open_for(model, documents, Path(config.out), progress=True)
    store = embed_corpus(
        encoder, documents, config.out, dtype=config.dtype, shard_size=config.shard_size, progress=True
    )
    if store is None:
        line = f"Process {rank()} of {world_size()} has made its shards; others are still at work."
    else:
        terms = encoder.settings["lexical_terms"]
        lexical = f" and {terms} terms" if terms else ""
        line = (
            f"{len(store):,} passages, {encoder.dimension} dimensions{lexical} in {config.dtype}, "
            f"pooling {encoder.pooling}, compared by {encoder.similarity}: {config.out}"
        )
    console.print(line, highlight=False, markup=False, soft_wrap=True)
