"""Small corpora for the tests of retrieval: made-up vectors in shards, and a brute-force score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from retromae.retrieval.shards import Manifest, VectorStore, write_shard
from retromae.retrieval.vectors import Vectors
from retromae.text.store import Passage

FINGERPRINT = "0123"


def random_vectors(n: int, d: int, seed: int, *, vocabulary: int = 0, terms: int = 0) -> Vectors:
    """Dense rows, and with a `vocabulary` a lexical half of `terms` weights a row, of either sign."""
    draw = np.random.default_rng(seed)
    dense = draw.standard_normal((n, d), dtype=np.float32)
    if not vocabulary:
        return Vectors(dense, None, FINGERPRINT)
    chosen = np.sort(draw.random((n, vocabulary)).argsort(axis=1)[:, :terms], axis=1)
    weights = draw.standard_normal(n * terms).astype(np.float32)
    starts = np.arange(n + 1) * terms
    return Vectors(dense, csr_array((weights, chosen.ravel(), starts), shape=(n, vocabulary)), FINGERPRINT)


def make_store(
    folder: Path, vectors: Vectors, *, shard_size: int = 40, ids: list[str] | None = None
) -> VectorStore:
    names = ids or [f"d{row:04d}" for row in range(len(vectors))]
    passages = [Passage(name, f"title of {name}", f"what {name} says") for name in names]
    n, d = vectors.dense.shape
    vocabulary = None if vectors.lexical is None else vectors.lexical.shape[1]
    Manifest(FINGERPRINT, d, vocabulary, "float32", n, shard_size).write(folder)
    for number, start in enumerate(range(0, n, shard_size)):
        part = slice(start, min(start + shard_size, n))
        write_shard(folder, number, vectors.rows(part), passages[part], "float32")
    return VectorStore(folder)


def brute_force(queries: Vectors, documents: Vectors) -> npt.NDArray[np.float64]:
    """(q, n) scores, as the definition reads."""
    scores = queries.dense.astype(np.float64) @ documents.dense.astype(np.float64).T
    if queries.lexical is not None and documents.lexical is not None:
        scores += (
            queries.lexical.toarray().astype(np.float64) @ documents.lexical.toarray().astype(np.float64).T
        )
    return scores
