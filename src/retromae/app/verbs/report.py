"""retromae report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retromae.app.flags import console
from retromae.app.report.page import write_report


def command(run: Annotated[Path, typer.Argument(help="the --output_dir of an adapt run")]) -> None:
    """Write the report of an adapt run again: report.html, and the pictures in plots/."""
    console.print(str(write_report(run)), highlight=False, markup=False, soft_wrap=True)
