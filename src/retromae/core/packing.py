"""Rows of tokens into padded batches under a token budget: plain functions on lengths and flat arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def cuts(lengths: Integers, budget: int) -> Iterator[tuple[int, int]]:
    """Cut rows sorted by length so that rows × longest ≤ budget; a row that is longer stands alone."""
    start = 0
    while start < len(lengths):
        most = max(1, budget // max(1, int(lengths[start])))  # no more can fit, since later rows are longer
        part = lengths[start : start + most]
        fits = int(np.searchsorted(part * np.arange(1, len(part) + 1), budget, side="right"))
        stop = start + max(1, fits)
        yield start, stop
        start = stop


def by_length(lengths: Integers, budget: int) -> list[Integers]:
    """The rows of each batch, longest batch first: what does not fit into memory fails at once."""
    order = np.argsort(lengths, kind="stable")
    return [order[start:stop] for start, stop in cuts(lengths[order], budget)][::-1]


def pad(flat: npt.NDArray[Any], starts: Integers, lengths: Integers, fill: int, *, left: bool) -> Integers:
    """Rows `flat[starts[i] : starts[i] + lengths[i]]` as (B, longest), filled up on the right or the left."""
    width = int(lengths.max(initial=0))
    columns = np.arange(width)[None, :] - (width - lengths[:, None] if left else 0)  # place within the row
    inside = (columns >= 0) & (columns < lengths[:, None])  # (B, width)
    padded = np.full((len(lengths), width), fill, dtype=np.int64)
    padded[inside] = flat[(starts[:, None] + columns)[inside]]
    return padded
