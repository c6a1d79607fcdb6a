"""Dot products and merging, the same for every kind of index.

A score is always the float64 dot product rounded to float32: it depends neither on batch, thread, block size
nor kind of index, so that equal vectors have equal scores and ties are real ties.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_GATHERED = 1 << 22  # numbers of candidates' vectors held at once: 32 MiB


def candidate_scores(queries: npt.NDArray[Any], vectors: npt.NDArray[Any], places: Integers) -> Floats:
    """(q, c): the dot product of each query with its own candidates, −inf at place −1."""
    scores = np.full(places.shape, -np.inf, dtype=np.float32)
    step = max(1, _GATHERED // max(1, vectors.shape[1]))
    for row, query in enumerate(queries.astype(np.float64)):
        for start in range(0, places.shape[1], step):
            part = places[row, start : start + step]
            found = part >= 0
            scores[row, start : start + step][found] = vectors[part[found]].astype(np.float64) @ query
    return scores


def best_of(scores: Floats, places: Integers, ranks: npt.NDArray[Any], k: int) -> tuple[Integers, Floats]:
    """The best k of each row of candidates: by score, then by the rank of the document's id; place −1 last."""
    order = np.lexsort((ranks[places], -scores, places < 0), axis=1)[:, :k]
    return np.take_along_axis(places, order, axis=1), np.take_along_axis(scores, order, axis=1)
