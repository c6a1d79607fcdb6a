"""Words of many texts as hashes, against splitting each text by itself."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retromae.text.word_hashes import words_of

TEXTS = st.lists(st.text(st.sampled_from("abZßé0́ \n.,-'水の кот"), max_size=40), min_size=1, max_size=8)


def plain_words(text: str) -> list[str]:
    """Runs of letters, digits and marks; Chinese and Japanese letters alone."""
    kinds = "".join(
        "s" if character in "水の" else "w" if unicodedata.category(character)[0] in "LNM" else " "
        for character in text.lower()
    )
    return [text.lower()[match.start() : match.end()] for match in re.finditer(r"s|w+", kinds)]


@settings(deadline=None)  # the first call makes tables
@given(TEXTS)
def test_equal_hashes_are_equal_words(texts: list[str]) -> None:
    words = words_of(texts)
    plain = [plain_words(text) for text in texts]
    assert words.counts.tolist() == [len(found) for found in plain]
    flat = [word for found in plain for word in found]
    assert len(words.hashes) == len(flat)
    numbers = dict(zip(flat, words.hashes.tolist(), strict=True))
    assert [
        numbers[word] for word in flat
    ] == words.hashes.tolist()  # the same word, the same hash, everywhere
    assert len(set(numbers.values())) == len(numbers)  # different words, different hashes


def test_case_does_not_matter_and_place_does_not() -> None:
    one, two = words_of(["Tide tables"]), words_of(["x" * 500 + " TIDE, tables!"])
    assert one.hashes.tolist() == two.hashes[1:].tolist()


def test_nothing_gives_nothing() -> None:
    assert words_of([""]).counts.tolist() == [0]
    assert words_of(["", "...", "a"]).counts.tolist() == [0, 0, 1]
    assert words_of(["\U00020000\U00020001\U0001f600"]).counts.tolist() == [
        2
    ]  # rare ideographs; a smile is no word
    assert len(np.unique(words_of(["ไทย"]).hashes)) == 3
