"""The lexical half of a corpus: by document (to score and explain) and by term (to find).

    starts.npy (n + 1), terms.npy, weights.npy             the k terms of each document
    term_starts.npy (V + 1), documents.npy, term_weights.npy    the documents of each term, by position

The same numbers twice, both memory-mapped. A score is Σ over the terms that a document keeps of μ_q · μ_d, and
adding up only part of the query's terms gives candidates. scipy's matrices are made of blocks only: over a whole
corpus their 32-bit positions would overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_array, csr_array

from retromae.core.errors import UserError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Rows = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]  # starts, terms, weights of some documents
Parts = Callable[[], Iterable[Rows]]

_BY_DOCUMENT = ("starts", "terms", "weights")
_BY_TERM = ("term_starts", "documents", "term_weights")
_POSTINGS = 1 << 22  # handled at once


class InvertedIndex:
    """Open a folder written by `build_inverted`."""

    def __init__(self, folder: str | Path) -> None:
        try:
            arrays = [
                np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in (*_BY_DOCUMENT, *_BY_TERM)
            ]
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} is missing or truncated ({error}); build the index again.") from None
        self._starts, self._terms, self._weights = arrays[:3]
        self._term_starts, self._documents, self._term_weights = arrays[3:]
        self.vocabulary = len(self._term_starts) - 1

    def __len__(self) -> int:
        """Documents."""
        return len(self._starts) - 1

    @property
    def size(self) -> int:
        """Bytes of both orders."""
        by_document = (self._starts, self._terms, self._weights)
        by_term = (self._term_starts, self._documents, self._term_weights)
        return sum(int(array.nbytes) for array in (*by_document, *by_term))

    def rows(self, start: int, stop: int) -> csr_array:
        """The documents start … stop − 1 as (n, V)."""
        first, last = int(self._starts[start]), int(self._starts[stop])
        parts = (self._weights[first:last], self._terms[first:last], self._starts[start : stop + 1] - first)
        return csr_array(parts, shape=(stop - start, self.vocabulary))

    def row(self, document: int) -> csr_array:
        return self.rows(document, document + 1)

    def candidate_scores(self, queries: Floats, places: Integers) -> Floats:
        """(q, c): each query with its own candidates; 0 at place −1."""
        scores = np.zeros(places.shape, dtype=np.float32)
        for row, query in enumerate(queries):
            documents = np.maximum(places[row], 0)
            counts = self._starts[documents + 1] - self._starts[documents]
            where = _ranges(self._starts[documents], counts)
            products = self._weights[where].astype(np.float64) * query[self._terms[where]]
            owner = np.repeat(np.arange(len(documents)), counts)
            scores[row] = np.bincount(owner, products, minlength=len(documents))
        scores[places < 0] = 0.0
        return scores

    def scores(self, query: Floats, most_terms: int | None = None) -> Floats:
        """(n,): one query (V,) with every document, through the postings of its terms.

        `most_terms` keeps the query's largest weights only: an approximation. A term that no document keeps
        costs nothing.
        """
        used = np.flatnonzero(query)
        if most_terms is not None and len(used) > most_terms:
            used = np.sort(used[np.argsort(-query[used], kind="stable")[:most_terms]])
        starts = np.asarray(self._term_starts)
        counts = starts[used + 1] - starts[used]
        total = np.zeros(len(self))
        for first, last in _groups(counts, _POSTINGS):
            where = _ranges(starts[used[first:last]], counts[first:last])
            weights = np.repeat(query[used[first:last]].astype(np.float64), counts[first:last])
            total += np.bincount(
                self._documents[where], weights * self._term_weights[where], minlength=len(self)
            )
        return total.astype(np.float32)


def _ranges(starts: npt.NDArray[Any], counts: npt.NDArray[Any]) -> Integers:
    """starts[0] … starts[0] + counts[0] − 1, starts[1] …, one after another."""
    ends = np.cumsum(counts)
    return np.repeat(np.asarray(starts) - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)


def _groups(counts: npt.NDArray[Any], most: int) -> Iterable[tuple[int, int]]:
    """Cut a list of counts so that each group adds up to `most`, or is a single count."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, last
        first = last


def build_inverted(folder: Path, parts: Parts, vocabulary: int) -> None:
    """Write both orders, reading the parts twice and holding one at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    per_term = np.zeros(vocabulary, dtype=np.int64)
    documents = postings = 0
    for starts, terms, _ in parts():
        if len(terms) and int(terms.max()) >= vocabulary:
            raise UserError(f"the vectors hold the term {int(terms.max())} of a vocabulary of {vocabulary}.")
        per_term += np.bincount(terms, minlength=vocabulary)
        documents, postings = documents + len(starts) - 1, postings + len(terms)
    sizes = {
        "starts": (np.int64, documents + 1),
        "terms": (np.int32, postings),
        "weights": (np.float32, postings),
    }
    sizes |= {"documents": (np.int32, postings), "term_weights": (np.float32, postings)}
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(size,))
        for name, (dtype, size) in sizes.items()
    }
    np.save(folder / "term_starts.npy", np.concatenate([[0], np.cumsum(per_term)]))
    free = np.cumsum(per_term) - per_term  # where each term's next document goes
    document = posting = 0
    for starts, terms, weights in parts():
        n, size = len(starts) - 1, len(terms)
        files["starts"][document : document + n] = starts[:-1] + posting
        files["terms"][posting : posting + size] = terms
        files["weights"][posting : posting + size] = weights
        by_term = csc_array(csr_array((weights, terms, starts), shape=(n, vocabulary)))
        counts = np.diff(by_term.indptr)
        where = _ranges(free, counts)
        files["documents"][where] = by_term.indices + document
        files["term_weights"][where] = by_term.data
        free += counts
        document, posting = document + n, posting + size
    files["starts"][document] = posting
    for array in files.values():
        array.flush()
