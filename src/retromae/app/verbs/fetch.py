"""retromae fetch"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retromae.app.flags import console
from retromae.core.errors import UserError
from retromae.core.files import replacing_folder
from retromae.text.hub_collections import fetch


def command(
    source: Annotated[str, typer.Argument(help="a retrieval collection of the hub: hub:NAME")],
    out: Annotated[str, typer.Option(help="folder for it")],
) -> None:
    """A retrieval collection of the hub to a BEIR folder, which every other verb reads."""
    folder = Path(out)
    if folder.exists() and not (folder / "corpus.jsonl").is_file() and any(folder.iterdir()):
        raise UserError(f"'{out}' is not empty and holds no collection; choose another folder.")
    with replacing_folder(folder) as temporary:
        fetch(source, temporary)
    console.print(f"{source}: {out}", highlight=False, markup=False, soft_wrap=True)
