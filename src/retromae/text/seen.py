"""Exact duplicates, remembered as 64-bit hashes in sorted arrays.

Memory: 8 bytes for each distinct passage, up to 16 for a moment while two arrays are merged (1.6 GB at most
for a hundred million passages). Two different passages among n collide with a chance of about n² / 2⁶⁵:
under one in three thousand for a hundred million; a collision costs one passage.
"""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]

_GROWTH = 4


def stable_key(text: str) -> int:
    """64 bits of a hash that is the same on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def duplicate_key(title: str, text: str) -> int:
    """The hash by which duplicates are known: composed characters (NFC), white space as single spaces."""
    normal = "\n".join(" ".join(part.split()) for part in (title, text))
    return stable_key(unicodedata.normalize("NFC", normal))


class SeenKeys:
    """A set of 64-bit keys that is filled in batches.

    The keys lie in a few sorted arrays, each several times as long as the next; a new batch is appended and
    merged with its neighbours while these are not much longer, so that each key is moved only log(n) times.
    """

    def __init__(self) -> None:
        self._runs: list[Keys] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Whether each key is new: not in the set and not earlier in this batch. Afterwards all are in it."""
        _, first = np.unique(keys, return_index=True)
        new = np.zeros(len(keys), dtype=np.bool_)
        new[first] = True
        for run in self._runs:
            places = np.searchsorted(run, keys)
            new &= run[np.minimum(places, len(run) - 1)] != keys
        if new.any():
            self._append(np.sort(keys[new]))
        return new

    def _append(self, run: Keys) -> None:
        while self._runs and len(self._runs[-1]) < _GROWTH * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # radix or merge sort: fast on two sorted halves
        self._runs.append(run)
