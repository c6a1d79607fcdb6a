"""Documents that are nearly the same: MinHash over runs of three words, compared through locality-sensitive bands.

The share of equal numbers in two signatures estimates the share of word runs that two documents have in common
(Jaccard). Where there are too many documents a sample of them is compared; it is drawn by a number of the signature
itself, so that near copies come into it together, and the share of copies in it holds for the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from retromae.core.draws import mix64, order
from retromae.text.hash_sample import HashSample
from retromae.text.word_hashes import Hashes, Words

ALIKE = 0.8
"""Documents that share so much of their word runs are near copies."""
LEAST_WORDS = 8
"""Shorter documents are not compared: only word for word (exact duplicates)."""
_RUN, _SIZE, _BANDS = 3, 64, 16  # words of a run; numbers of a signature; bands of four
_MOST = 50_000

Signature = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class NearCopies:
    """`copies` are documents that could go because one that is nearly the same stays; exact duplicates not counted."""

    compared: int
    copies: int
    sampled: bool
    examples: list[tuple[str, str]]
    """Ids of some that are near copies of each other."""

    @property
    def share(self) -> float:
        return self.copies / self.compared if self.compared else 0.0


class NearCopySearch:
    """Collects signatures while documents pass by."""

    def __init__(self, most: int = _MOST) -> None:
        self._sample: HashSample[tuple[str, Signature]] = HashSample(most)
        self._salts = order(_SIZE, 7).astype(np.uint64) * np.uint64(2) + np.uint64(1)

    def add(self, words: Words, ids: list[str]) -> None:
        """Some documents; each must be new (no exact duplicate of one that was added)."""
        long = words.counts >= LEAST_WORDS
        if not long.any():
            return
        counts = np.where(long, words.counts - _RUN + 1, 0)
        signatures = self._signatures(_runs(words, long), (np.cumsum(counts) - counts)[long])
        keys = mix64(signatures[:, 0].astype(np.uint64))
        for place, document in enumerate(np.flatnonzero(long).tolist()):
            self._sample.add(int(keys[place]), 1, (ids[document], signatures[place].copy()))

    def _signatures(self, runs: Hashes, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """(documents, 64): for each of 64 hash functions the smallest value among the document's runs."""
        found = np.empty((len(starts), _SIZE), dtype=np.uint32)
        for column, salt in enumerate(self._salts):
            values = ((runs ^ salt) * np.uint64(0xBF58476D1CE4E5B9) * salt) >> np.uint64(32)
            found[:, column] = np.minimum.reduceat(values, starts).astype(np.uint32)
        return found

    def result(self) -> NearCopies:
        kept = sorted(self._sample.items(), key=lambda item: item[0])
        ids = [identifier for identifier, _ in kept]
        if not kept:
            return NearCopies(0, 0, False, [])
        signatures = np.stack([signature for _, signature in kept])
        left, right = _pairs(signatures)
        graph = coo_array((np.ones(len(left)), (left, right)), shape=(len(kept), len(kept)))
        groups, _ = connected_components(graph, directed=False)
        examples = [(ids[a], ids[b]) for a, b in list(zip(left.tolist(), right.tolist()))[:3]]
        return NearCopies(len(kept), len(kept) - int(groups), not self._sample.complete, examples)


def _runs(words: Words, wanted: npt.NDArray[np.bool_]) -> Hashes:
    """Hashes of all runs of three words in the wanted documents, none across two documents."""
    hashes, counts = words.hashes, words.counts
    after = np.append(hashes, np.zeros(_RUN, dtype=np.uint64))
    runs = np.zeros(len(hashes), dtype=np.uint64)
    for place in range(_RUN):
        runs = runs * np.uint64(0x9E3779B97F4A7C15) + after[place : place + len(hashes)]
    left = np.repeat(np.cumsum(counts), counts) - np.arange(
        len(hashes)
    )  # words from here to the document's end
    return mix64(runs[(left >= _RUN) & np.repeat(wanted, counts)])


def _pairs(signatures: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Documents (left < right) that meet in a band and are alike; each is compared with its group's first and next."""
    found = []
    width = _SIZE // _BANDS
    for band in range(_BANDS):
        part = np.ascontiguousarray(signatures[:, band * width : (band + 1) * width]).astype(np.uint64)
        keys = np.zeros(len(part), dtype=np.uint64)
        for column in part.T:
            keys = mix64(keys ^ column)
        placed = np.argsort(keys, kind="stable")
        equal = np.append(False, keys[placed][1:] == keys[placed][:-1])
        first = np.maximum.accumulate(np.where(equal, 0, np.arange(len(placed))))
        here = np.flatnonzero(equal)
        found += [
            np.stack([placed[first[here]], placed[here]]),
            np.stack([placed[here - 1], placed[here]]),
        ]
    pairs = np.unique(np.sort(np.concatenate(found, axis=1), axis=0), axis=1)
    left, right = pairs
    alike = np.concatenate(
        [
            (signatures[left[start : start + 8192]] == signatures[right[start : start + 8192]]).mean(axis=1)
            >= ALIKE
            for start in range(0, max(len(left), 1), 8192)
        ]
    )
    return left[alike], right[alike]
