"""The colours of the report: each has a name on the page, a value for the light and one for the dark.

Pictures are drawn with the light values; on the page each is replaced by `var(--name)`.
"""

from __future__ import annotations

from retromae.app.pictures import BLUE, GRID, INK, PALE, ROAD

__all__ = [
    "ACCENT",
    "AXIS",
    "BASE",
    "DARK",
    "GREEN",
    "GRID",
    "INK",
    "LIGHT",
    "ORANGE",
    "PALE",
    "PAPER",
    "PURPLE",
]

PAPER, ACCENT, AXIS, BASE = "#ffffff", BLUE, ROAD, "#868d96"
ORANGE, GREEN, PURPLE = "#b1530c", "#18794e", "#7b4a9e"

LIGHT = {
    "paper": PAPER,
    "ink": INK,
    "pale": PALE,
    "grid": GRID,
    "axis": AXIS,
    "base": BASE,
    "accent": ACCENT,
    "orange": ORANGE,
    "green": GREEN,
    "purple": PURPLE,
}
DARK = {
    "paper": "#15181d",
    "ink": "#e6e8eb",
    "pale": "#9ba4b0",
    "grid": "#262b33",
    "axis": "#48505c",
    "base": "#8b939e",
    "accent": "#6db1f2",
    "orange": "#f0a35e",
    "green": "#5fc793",
    "purple": "#c39be2",
}


def variables(colours: dict[str, str]) -> str:
    """The colours as custom properties of CSS."""
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())
