"""A sample of a stream that depends on what was in it, not on the order in which it came."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")

_ALL = 1 << 64


class HashSample(Generic[T]):
    """The items with the smallest keys, as many as a budget holds; items with the same key come or go together.

    Kept is every item whose key is below `limit`, the smallest key up to which all items seen are too heavy for
    the budget. That is a property of the set of items alone. Keys are 64-bit hashes, so the sample is a random one.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.limit = _ALL
        """Keys from here on are refused: ask before an item is costly to make."""
        self._heap: list[tuple[int, int, int, T]] = []  # (−key, number, weight, item): the largest key on top
        self._weight = 0
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def complete(self) -> bool:
        """Whether nothing had to be left out."""
        return self.limit == _ALL

    def add(self, key: int, weight: int, item: T) -> None:
        if key >= self.limit:
            return
        heapq.heappush(self._heap, (-key, next(self._numbers), weight, item))
        self._weight += weight
        while self._weight > self.budget:
            self.limit = -self._heap[0][0]
            while self._heap and -self._heap[0][0] == self.limit:
                self._weight -= heapq.heappop(self._heap)[2]

    def items(self) -> list[T]:
        """What is kept, by rising key."""
        return [item for *_, item in sorted(self._heap, key=lambda kept: -kept[0])]
