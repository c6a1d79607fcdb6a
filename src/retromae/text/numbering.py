"""Numbers for texts, counted up in the order in which they first occur: equal texts get the same number.

Texts are known by 128-bit digests, so that no two different ones are ever taken for each other. Memory: 20 bytes
for each distinct text, up to 40 for a moment while two arrays are merged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int32]
Digests = npt.NDArray[np.bytes_]

_BYTES = 16
_GROWTH = 4


def digest(*parts: str) -> bytes:
    """128 bits that are the same on every machine; half a surrogate pair raises UnicodeEncodeError."""
    lengths = " ".join(str(len(part)) for part in parts)
    return hashlib.blake2b(f"{lengths} {''.join(parts)}".encode(), digest_size=_BYTES).digest()


class Numbering:
    """Digest → number, filled in batches; sorted arrays, each several times as long as the next (see `seen`)."""

    def __init__(self) -> None:
        self._runs: list[tuple[Digests, Numbers]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def number(self, digests: Sequence[bytes]) -> tuple[Numbers, list[int]]:
        """The number of each, and the places in this batch where a new one occurs first, in their order."""
        keys = np.frombuffer(b"".join(digests), dtype=f"S{_BYTES}")
        distinct, first, back = np.unique(keys, return_index=True, return_inverse=True)
        numbers = np.full(len(distinct), -1, dtype=np.int32)
        for known, their_numbers in self._runs:
            places = np.minimum(np.searchsorted(known, distinct), len(known) - 1)
            found = known[places] == distinct
            numbers[found] = their_numbers[places[found]]
        new = np.flatnonzero(numbers < 0)
        in_order = new[np.argsort(first[new])]
        numbers[in_order] = self._count + np.arange(len(new), dtype=np.int32)
        self._count += len(new)
        if new.size:
            self._append(distinct[new], numbers[new])
        return numbers[back], first[in_order].tolist()

    def _append(self, keys: Digests, numbers: Numbers) -> None:
        while self._runs and len(self._runs[-1][0]) < _GROWTH * len(keys):
            their_keys, their_numbers = self._runs.pop()
            keys, numbers = np.concatenate([their_keys, keys]), np.concatenate([their_numbers, numbers])
            order = np.argsort(keys, kind="stable")
            keys, numbers = keys[order], numbers[order]
        self._runs.append((keys, numbers))
