"""Near copies, planted and not."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retromae.text.near_copies import NearCopies, NearCopySearch
from retromae.text.word_hashes import words_of


def text(seed: int, words: int = 200) -> list[str]:
    return [f"w{number}" for number in np.random.default_rng(seed).integers(0, 5000, words)]


def search(texts: dict[str, str], most: int = 50_000, at_once: int = 7) -> NearCopies:
    found = NearCopySearch(most)
    names = list(texts)
    for start in range(0, len(names), at_once):
        some = names[start : start + at_once]
        found.add(words_of([texts[name] for name in some]), some)
    return found.result()


def corpus(originals: int, copied: int) -> dict[str, str]:
    """Different documents, and copies of some in which one word in two hundred is another."""
    texts = {f"d{n}": " ".join(text(n)) for n in range(originals)}
    for n in range(copied):
        changed = text(n)
        changed[n % 200] = "other"
        texts[f"copy{n}"] = " ".join(changed)
    return texts


def test_copies_are_found_and_others_are_not() -> None:
    found = search(corpus(60, 12))
    assert (found.compared, found.copies, found.sampled) == (72, 12, False)
    assert all(a.removeprefix("copy") == b.removeprefix("d") for a, b in found.examples)
    assert found.share == 12 / 72


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 30))
def test_order_and_batches_do_not_matter(random, at_once: int) -> None:
    texts = list(corpus(20, 6).items())
    random.shuffle(texts)
    assert search(dict(texts), at_once=at_once) == search(corpus(20, 6))


def test_three_versions_of_one_document_leave_one() -> None:
    versions = [text(1), [*text(1)[:-1], "new"], [*text(1)[:-2], "newer", "still"]]
    found = search({str(n): " ".join(words) for n, words in enumerate(versions)})
    assert (found.compared, found.copies) == (3, 2)


def test_short_documents_are_not_compared() -> None:
    found = search({"a": "one two three", "b": "one two three", "c": " ".join(text(3)), "d": ""})
    assert (found.compared, found.copies) == (1, 0)
    assert search({"a": ""}) == NearCopies(0, 0, False, [])


def test_a_sample_keeps_copies_together() -> None:
    found = search(corpus(600, 600), most=300)
    assert found.sampled and found.compared <= 300
    assert abs(found.share - 0.5) < 0.06  # half of all could go
