"""Draws the pictures of the documentation: `python docs/figures/make.py`. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from retromae.app.figures import draw_visible, mask_maker, visible_matrix
from retromae.text.vocabulary import train_tokenizer

HERE = Path(__file__).parent
SENTENCE = "The ferry leaves the old harbour at noon, but the lighthouse keeper stays."
OTHERS = [
    "The old keeper counts the boats in the harbour before noon.",
    "A ferry leaves at noon, another leaves at night.",
    "The house above the harbour has a light, but nobody stays in the house.",
    "The light of the old house leaves a mark on the water.",
    "A boathouse stands by the water, a warehouse behind it, a customhouse on the hill.",
]


def main() -> None:
    tokenizer = train_tokenizer(OTHERS, 400, "wordpiece", True)
    matrix = visible_matrix(mask_maker(tokenizer), tokenizer, SENTENCE)
    draw_visible(matrix, [HERE / "enhanced-decoding.svg", HERE / "enhanced-decoding.png"])


if __name__ == "__main__":
    main()
