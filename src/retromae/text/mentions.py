"""Every time that a passage is named with a query, gathered while reading, then sorted into lists by query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from retromae.text.store import Numbers

Scores = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


class Mentions(NamedTuple):
    """In the order of the source; 13 bytes each."""

    queries: Numbers  # (m,)
    passages: Numbers  # (m,)
    positive: Flags  # (m,)
    scores: Scores  # (m,) NaN where none is given

    @classmethod
    def joined(cls, parts: Sequence[Mentions]) -> Mentions:
        empty = (np.empty(0, kind) for kind in (np.int32, np.int32, np.bool_, np.float32))
        return cls(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))

    def where(self, keep: Flags) -> Mentions:
        return Mentions(self.queries[keep], self.passages[keep], self.positive[keep], self.scores[keep])

    def contradicted(self) -> Flags:
        """Negatives that are positives of the same query elsewhere."""
        keys = self._keys()
        return ~self.positive & np.isin(keys, keys[self.positive])

    def by_query(self, queries: int) -> tuple[npt.NDArray[np.int64], Numbers, Scores]:
        """(starts, passages, scores): each query's distinct passages, in the order in which they were named.

        Of a passage that is named several times the first score stands.
        """
        keys = self._keys()
        distinct, first = np.unique(keys, return_index=True)
        scores = self.scores[first]
        scored = np.flatnonzero(~np.isnan(self.scores))
        known, places = np.unique(keys[scored], return_index=True)
        scores[np.searchsorted(distinct, known)] = self.scores[scored[places]]
        order = np.lexsort((first, self.queries[first]))
        counts = np.bincount(self.queries[first], minlength=queries)
        return np.concatenate([[0], np.cumsum(counts)]), self.passages[first[order]], scores[order]

    def _keys(self) -> npt.NDArray[np.int64]:
        """One integer for each (query, passage)."""
        return self.queries.astype(np.int64) << 32 | self.passages
