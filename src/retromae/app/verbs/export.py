"""retromae export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from retromae.app.flags import console
from retromae.retrieval.export import DENSE, LEXICAL, open_exportable, open_qdrant, to_qdrant


def command(
    folder: Annotated[str, typer.Argument(help="index, or folder of vectors")],
    to: Annotated[Literal["qdrant"], typer.Option("--to", help="what it is handed over to")] = "qdrant",
    out: Annotated[
        str | None, typer.Option("--out", help="folder for Qdrant's local mode, which needs no server")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="address of a Qdrant server; its key in QDRANT_API_KEY")
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", help="name of the collection (default: the folder's name)")
    ] = None,
) -> None:
    """Hand an index over to a vector database: passages, dense vectors, and the lexical half where there is one."""
    source = open_exportable(folder)
    name = collection or Path(folder).resolve().name
    with open_qdrant(out, url) as client:
        points = to_qdrant(source, client, name, progress=True)
        sparse = client.get_collection(name).config.params.sparse_vectors
    kinds = f"vectors {DENSE!r} and sparse vectors {LEXICAL!r}" if sparse else f"vectors {DENSE!r}"
    line = f"{points:,} points with {kinds} in the collection {name!r} of {to}: {out or url}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
