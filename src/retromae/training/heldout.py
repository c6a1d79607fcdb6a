"""Rows that are kept from training, and what is measured on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from retromae.core import distributed
from retromae.core.draws import Stream, key, mix64
from retromae.objectives import Batch, Objective
from retromae.text.rows import Rows
from retromae.training.batches import BatchPlan, MicroBatch, Padding, RowBatches

Indices = NDArray[np.int64]


def default_share(rows: int) -> float:
    """Enough for a probe of a few hundred rows, but between 2 and 10 percent of all."""
    return min(0.1, max(0.02, 300 / max(1, rows)))


def split(rows: Rows, share: float, most: int) -> tuple[Indices, Indices]:
    """(train, held out): whole documents are held out, the same ones for every seed and objective, and no more of
    them than it takes to have `most` rows."""
    hashed = mix64(rows.document_keys ^ np.uint64(key(int(Stream.HOLDOUT))))
    held = hashed.astype(np.float64) < share * 2.0**64
    if held.sum() > most:  # the documents of the smallest hashes
        held &= hashed <= np.partition(hashed[held], most - 1)[most - 1]
    return np.flatnonzero(~held), np.flatnonzero(held)


class HeldOut:
    """Loss, accuracy and [CLS] use on held-out rows. The masks are those of epoch 0, so they never change."""

    def __init__(
        self, rows: Rows, held_out: Indices, padding: Padding, tokens_per_batch: int, vocabulary: int
    ) -> None:
        plan = BatchPlan(held_out, rows.lengths[held_out], padding, tokens_per_batch, seed=0)
        self.batches = plan.epoch(0)
        self.dataset = RowBatches(rows, padding, vocabulary)

    @torch.no_grad()
    def measure(
        self, objective: Objective, device: torch.device, autocast: Callable[[], torch.autocast]
    ) -> dict[str, float]:
        """Means over all held-out rows; the batches are shared out over the processes."""
        world = distributed.world_size()
        shared = len(self.batches) >= world
        mine = self.batches[distributed.rank() :: world] if shared else self.batches
        sums: dict[str, torch.Tensor] = {}
        for rows in mine:
            batch = self._batch(rows, device)
            with autocast():
                for name, (value, items) in objective.measure(batch).items():
                    pair = torch.stack([value.double(), items.double()])
                    sums[name] = sums[name] + pair if name in sums else pair
        names = sorted(sums)
        stacked = torch.stack([sums[name] for name in names])
        if shared:
            stacked = distributed.sum_over_ranks(stacked)
        return {name: value / items for name, (value, items) in zip(names, stacked.tolist()) if items > 0}

    def _batch(self, rows: Indices, device: torch.device) -> Batch:
        batch = self.dataset[MicroBatch(0, rows)].to(device)
        batch.progress = 1.0  # schedules are measured at their end
        return batch
