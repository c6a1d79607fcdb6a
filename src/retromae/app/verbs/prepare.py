"""retromae prepare"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from retromae.app.flags import PrintConfig, console, with_flags
from retromae.core.config import from_dict, options, to_dict, to_yaml
from retromae.text.prepare import PrepareConfig, prepare
from retromae.text.shards import RowsInfo


def summary(info: RowsInfo, out: str) -> list[str]:
    """What became of the sources, for people; every problem is counted and shown by examples."""
    dropped = f", {info.duplicates:,} duplicates dropped" if info.duplicates else ""
    lines = [
        f"{info.documents:,} documents, {info.passages:,} passages{dropped}, {info.tokens:,} tokens: {out}",
        f"{info.vocab_size:,} words in the tokenizer",
    ]
    for kind, number in info.problems.get("counts", {}).items():
        lines.append(f"{number:,} × {kind}, for example:")
        lines += [f"    {example}" for example in info.problems.get("examples", {}).get(kind, [])[:3]]
    return lines


@with_flags({"settings": [option for option in options(PrepareConfig) if option.name != "sources"]})
def command(
    sources: Annotated[list[str], typer.Argument(help="folders, files or hub data sets")],
    flags: dict[str, Any],
    print_config: PrintConfig = False,
) -> None:
    """Text to token rows: documents, passages, tokens, on disk. An interrupted one is gone on with."""
    config = from_dict(PrepareConfig, {"sources": sources, **flags}, "command line")
    if print_config:
        return console.print(to_yaml(to_dict(config)), highlight=False, markup=False)
    for line in summary(prepare(config), config.out):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
