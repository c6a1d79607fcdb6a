"""Int8 and binary vectors: codes by sentence-transformers' quantisation, searched by faiss.

Int8 uses one range per dimension, taken over the whole corpus in pieces. The query is not quantised: faiss
multiplies it with the middle of each code's step. Binary keeps the signs and compares them by Hamming distance.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt
from sentence_transformers import quantize_embeddings

Quantised = Literal["int8", "binary"]
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def ranges_of(parts: Iterable[npt.NDArray[Any]]) -> Floats:
    """(2, d): the smallest and largest value of each dimension over all parts, which are read one by one."""
    found = [np.vstack([part.min(axis=0), part.max(axis=0)]) for part in parts]
    lows, highs = np.stack(found, axis=1)
    return np.vstack([lows.min(axis=0), highs.max(axis=0)]).astype(np.float32)


def codes_of(vectors: Floats, kind: Quantised, ranges: Floats | None) -> Bytes:
    """(n, d) bytes for int8, (n, ⌈d / 8⌉) for binary."""
    precision: Literal["uint8", "ubinary"] = "uint8" if kind == "int8" else "ubinary"  # faiss counts from 0
    return np.asarray(quantize_embeddings(vectors, precision=precision, ranges=ranges), dtype=np.uint8)


def new_index(kind: Quantised, dimension: int, ranges: Floats | None) -> Any:
    """An empty faiss index for such codes."""
    if kind == "binary":
        return faiss.IndexBinaryFlat(8 * -(-dimension // 8))
    assert ranges is not None
    index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(np.concatenate([ranges[0], ranges[1] - ranges[0]]), index.sq.trained)
    index.is_trained = True
    return index


def add(index: Any, kind: Quantised, codes: Bytes) -> None:
    if kind == "binary":
        index.add(codes)
    else:
        index.add_sa_codes(codes)


def search(index: Any, kind: Quantised, queries: Floats, fetch: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Positions and scores (larger is better), (q, fetch), −1 where there is no more."""
    if kind == "binary":
        distances, places = index.search(codes_of(queries, kind, None), fetch)
        return places, -distances.astype(np.float32)
    scores, places = index.search(queries, fetch)
    return places, scores
