"""What all pictures of this floor share: their colours, their files, and that the same data gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retromae.core.errors import UserError
from retromae.core.files import replacing

ENDINGS = (".svg", ".png", ".pdf")
INK, PALE, GRID, ROAD = "#1f2328", "#6b7280", "#edf0f4", "#c3cad4"
BLUE, GREY = "#2a6db0", "#9aa0a6"


def checked(paths: Sequence[str | Path]) -> list[Path]:
    """The paths, after a look at their endings: before anything is drawn."""
    targets = [Path(path) for path in paths]
    for target in targets:
        if target.suffix not in ENDINGS:
            raise UserError(f"{target} must end in one of {', '.join(ENDINGS)}.")
    return targets


@contextmanager
def drawing(settings: dict[str, Any] | None = None) -> Iterator[Any]:
    """pyplot without a screen, in our font, with ids in SVGs that do not change from run to run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ours: Any = {"svg.hashsalt": "retromae", "font.family": "DejaVu Sans", **(settings or {})}
    with pyplot.rc_context(ours):
        yield pyplot


def save(figure: Any, targets: Sequence[Path]) -> None:
    """Write a figure once into every file, each whole or not at all, undated."""
    for target in targets:
        undated = {"metadata": {"Date": None}} if target.suffix == ".svg" else {}
        with replacing(target) as temporary:
            figure.savefig(temporary, format=target.suffix[1:], dpi=160, facecolor="white", **undated)
