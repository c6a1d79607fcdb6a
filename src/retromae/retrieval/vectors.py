"""What encoders give and indexes take: dense vectors, an optional lexical half, and who made them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """One row per text. The score of a query and a passage is the dot product of each half, added up."""

    dense: Floats  # (n, d)
    lexical: csr_array | None  # (n, V) float32: DupMAE's term weights
    fingerprint: str  # of the encoder
    cut: npt.NDArray[np.bool_] | None = None  # (n,) was the text too long and cut? None: nobody looked

    def __len__(self) -> int:
        return len(self.dense)

    def rows(self, which: slice | npt.NDArray[Any]) -> Vectors:
        """Some of the rows."""
        lexical = None if self.lexical is None else self.lexical[which]
        cut = None if self.cut is None else self.cut[which]
        return Vectors(self.dense[which], lexical, self.fingerprint, cut)


class Explanation(NamedTuple):
    """Where the score of a passage comes from; `terms` are the largest contributions of the lexical half."""

    dense: float
    lexical: float
    terms: list[tuple[str, float]]

    @property
    def score(self) -> float:
        return self.dense + self.lexical

    def __str__(self) -> str:
        matched = ", ".join(f"*{term}* {share:.1f}" for term, share in self.terms)
        lexical = f", lexical {self.lexical:.1f} (matched on {matched})" if matched else ""
        return f"dense {self.dense:.1f}{lexical}"


def explain(query: Vectors, passage: Vectors, term: Callable[[int], str], most: int = 10) -> Explanation:
    """The score of one query and one passage, taken apart. `term` gives the text of a vocabulary id.

    Terms are listed by the size of their contribution μ_q[i] · μ_d[i], the largest first; those that count
    against the passage are left out of the list, not out of the sum.
    """
    dense = float(query.dense[0].astype(np.float64) @ passage.dense[0])
    if query.lexical is None or passage.lexical is None:
        return Explanation(dense, 0.0, [])
    found: Any = passage.lexical[[0]]
    weights: Any = query.lexical[[0]].toarray()[0]
    shares = weights[found.indices].astype(np.float64) * found.data
    best = np.lexsort((found.indices, -shares))[:most]
    terms = [(term(int(found.indices[i])), float(shares[i])) for i in best if shares[i] > 0]
    return Explanation(dense, float(shares.sum()), terms)
