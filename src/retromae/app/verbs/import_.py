"""retromae import"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from retromae.app.flags import console
from retromae.models.importing import import_checkpoint


def command(
    source: Annotated[str, typer.Argument(help="hub folder, or a released RetroMAE or Condenser checkpoint")],
    out: Annotated[str, typer.Argument(help="checkpoint folder to write")],
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="folder or name of a tokenizer, instead of the source's own"),
    ] = None,
    pooling: Annotated[
        Literal["cls", "mean", "keep"], typer.Option("--pooling", help="how the vector is taken")
    ] = "cls",
) -> None:
    """Turn a foreign checkpoint into one that loads everywhere and can be continued; say what starts fresh."""
    for line in import_checkpoint(source, out, tokenizer, pooling).lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
