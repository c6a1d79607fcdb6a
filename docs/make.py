"""Makes what the documentation takes from the code: `python docs/make.py`. Nothing is downloaded.

The picture of docs/enhanced-decoding.md, and the table of docs/families.md.
"""

from __future__ import annotations

from pathlib import Path

from retromae.app.figures import draw_visible, mask_maker, visible_matrix
from retromae.core.files import write_text
from retromae.models.families import table
from retromae.text.vocabulary import train_tokenizer

HERE = Path(__file__).parent
SENTENCE = "The ferry leaves the old harbour at noon, but the lighthouse keeper stays."
OTHERS = [  # for the tokenizer: every word of the sentence but "lighthouse", which falls into two pieces
    "The old keeper counts the boats in the harbour before noon.",
    "A ferry leaves at noon, another leaves at night.",
    "The house above the harbour has a light, but nobody stays in the house.",
    "The light of the old house leaves a mark on the water.",
    "A boathouse stands by the water, a warehouse behind it, a customhouse on the hill.",
]
BEGIN, END = "<!-- begin: families.table() -->\n", "<!-- end -->\n"


def picture(*paths: Path) -> None:
    tokenizer = train_tokenizer(OTHERS, 400, "wordpiece", True)
    draw_visible(visible_matrix(mask_maker(tokenizer), tokenizer, SENTENCE), paths)


def with_families(page: str) -> str:
    """The page with the table between its two marks made anew."""
    rows = table()
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return before + BEGIN + "".join(f"| {' | '.join(line)} |\n" for line in lines) + END + after


def main() -> None:
    picture(HERE / "figures" / "enhanced-decoding.svg", HERE / "figures" / "enhanced-decoding.png")
    families = HERE / "families.md"
    write_text(families, with_families(families.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
