"""The floors of the house: imports go down only, read from the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import retromae

ROOT = Path(retromae.__file__).parent
FLOORS = {
    "core": 0,
    "text": 1,
    "models": 1,
    "objectives": 2,
    "retrieval": 2,
    "training": 3,
    "evaluation": 3,
    "app": 4,
    "cli": 5,
    "__main__": 6,
    "__init__": 6,
}
FILES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute, so that they can be read"
            if node.module == "retromae":
                rooms |= {alias.name for alias in node.names if alias.name in FLOORS}
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("retromae.")}
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    own = room(path)
    assert own in FLOORS, f"'{own}' is a new room: give it a floor here and a line in CONTRIBUTING.md"
    for other in imported_rooms(path) - {own}:
        assert FLOORS[other] < FLOORS[own], (
            f"{own} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_transformers_internals_stay_in_the_backbone(path: Path) -> None:
    """Only models/ may look inside a transformers model."""
    if room(path) == "models":
        return
    text = path.read_text(encoding="utf-8")
    for name in ("transformers.models", ".bert.", ".roberta.", ".cls.predictions"):
        assert name not in text, f"{path}: '{name}' belongs into models/"
