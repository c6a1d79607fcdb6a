"""Lines that stand in many documents: headers, footers, menus, licences. They teach a retriever nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from retromae.text.hash_sample import HashSample

OFTEN, LEAST = 0.05, 5
"""A line is a repeated one from this share of the documents on, and at least so many of them."""
_BUDGET = 200_000  # lines that are held
_LETTERS = 200  # of a line that are compared
_SHORTEST = 4


@dataclass(frozen=True)
class RepeatedLine:
    text: str
    share: float
    """Of the documents."""


@dataclass(frozen=True)
class RepeatedLines:
    documents: int
    """That were looked at."""
    lines: list[RepeatedLine]
    """The most frequent ones."""
    number: int
    """How many different lines are repeated."""
    share: float
    """Of all lines looked at, how many are one of these."""


class RepeatedLineSearch:
    """Collects the lines of a sample of documents."""

    def __init__(self, budget: int = _BUDGET) -> None:
        self._sample: HashSample[frozenset[str]] = HashSample(budget)

    def add(self, key: int, text: str) -> None:
        """A document, once; `key` is the hash of its text."""
        if key < self._sample.limit:
            lines = (line.strip() for line in text.splitlines())
            kept = frozenset(line[:_LETTERS] for line in lines if len(line) >= _SHORTEST)
            self._sample.add(key, len(kept) + 1, kept)

    def result(self, most: int = 5) -> RepeatedLines:
        counts: Counter[str] = Counter()
        for lines in self._sample.items():
            counts.update(lines)
        documents = len(self._sample)
        least = max(LEAST, OFTEN * documents)
        repeated = sorted(
            ((line, count) for line, count in counts.items() if count >= least),
            key=lambda found: (-found[1], found[0]),
        )
        shown = [RepeatedLine(line, count / documents) for line, count in repeated[:most]]
        share = sum(count for _, count in repeated) / max(counts.total(), 1)
        return RepeatedLines(documents, shown, len(repeated), share)
