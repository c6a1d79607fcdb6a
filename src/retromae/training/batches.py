"""Which rows make up which batch: length-bucketed, under a token budget, and a pure function of (seed, epoch).

Rows are shuffled and cut into pools of about a hundred batches; inside a pool they are sorted by length and cut so
that rows × padded length stays under the budget; then the batches are shuffled. Padding waste stays under 3 %.
Nothing has state: the batches of step n can be named without having seen those before, so a run resumes anywhere.
One optimiser step takes `processes × accumulation` batches; which these are does not depend on how the product is
split, so one process that accumulates twice and two processes do the same step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from retromae.core.draws import Stream, order
from retromae.core.errors import UserError
from retromae.core.packing import cuts
from retromae.objectives import Batch
from retromae.text.rows import Rows

Indices = NDArray[np.int64]


class MicroBatch(NamedTuple):
    """One forward pass of one process."""

    epoch: int
    rows: Indices


@dataclass(frozen=True)
class Padding:
    """How rows become tensors: special tokens around them, cut at a maximum, padded to a common length."""

    cls_id: int
    sep_id: int
    pad_id: int
    max_length: int  # tokens of a row with its special tokens
    multiple: int = 1  # lengths are rounded up to this, so that few shapes exist

    def length(self, tokens: NDArray[np.int32]) -> NDArray[np.int64]:
        """The padded length of rows that have so many tokens of their own."""
        full = np.minimum(tokens.astype(np.int64) + 2, self.max_length)
        padded: NDArray[np.int64] = np.minimum(-(-full // self.multiple) * self.multiple, self.max_length)
        return padded


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a run.

    lengths           (n,) tokens of each row, without special tokens
    tokens_per_batch  budget of one micro-batch: rows × padded length
    batches_per_step  processes × accumulation
    """

    rows: Indices  # the rows that are trained on, of which lengths are given
    lengths: NDArray[np.int32]
    padding: Padding
    tokens_per_batch: int
    seed: int
    batches_per_step: int = 1
    pool_batches: int = 100

    def epoch(self, epoch: int) -> list[Indices]:
        """All batches of one pass: every row exactly once, in shuffled order of batches."""
        return [self.rows[batch] for batch in self._epoch(epoch)]

    def _epoch(self, epoch: int) -> list[Indices]:
        """The same as positions in `rows`."""
        padded = self.padding.length(self.lengths)
        shuffled = order(len(self.rows), self.seed, int(Stream.BATCHES), epoch)
        per_batch = max(1.0, self.tokens_per_batch / max(1.0, float(padded.mean())))
        pool = max(1, round(self.pool_batches * per_batch))
        batches: list[Indices] = []
        for start in range(0, len(shuffled), pool):
            rows = shuffled[start : start + pool]
            rows = rows[np.argsort(padded[rows], kind="stable")]
            batches += [rows[a:b] for a, b in cuts(padded[rows], self.tokens_per_batch)]
        shuffle = order(len(batches), self.seed, int(Stream.BATCHES), epoch, 1)
        return [batches[index] for index in shuffle]

    def waste(self, epoch: int = 0) -> float:
        """The share of padding among all tokens of an epoch."""
        real = np.minimum(self.lengths.astype(np.int64) + 2, self.padding.max_length)
        padded = sum(
            len(batch) * int(self.padding.length(self.lengths[batch]).max()) for batch in self._epoch(epoch)
        )
        return 1.0 - float(real.sum()) / padded

    def steps_in(self, epochs: int) -> int:
        """Optimiser steps that so many passes take."""
        return -(-sum(len(self.epoch(epoch)) for epoch in range(epochs)) // self.batches_per_step)

    def steps(self, start: int = 0, epochs: int | None = None) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each optimiser step from step `start` on; without `epochs` it never ends.

        A step's batches are sorted by size, so that dealing them out in turn balances the processes. The very
        last step of the last epoch may have too few batches: its rows are cut anew into as many as are needed.
        """
        waiting: list[MicroBatch] = []
        skip = start * self.batches_per_step
        epoch = 0
        while epochs is None or epoch < epochs:
            batches = self.epoch(epoch)
            fresh = batches[min(skip, len(batches)) :]
            skip -= len(batches) - len(fresh)
            for rows in fresh:
                waiting.append(MicroBatch(epoch, rows))
                if len(waiting) == self.batches_per_step:
                    yield sorted(waiting, key=lambda micro: -len(micro.rows))
                    waiting = []
            epoch += 1
        if waiting:
            yield self._recut(waiting)

    def _recut(self, waiting: list[MicroBatch]) -> list[MicroBatch]:
        rows = np.concatenate([micro.rows for micro in waiting])
        if len(rows) < self.batches_per_step:  # not one row for each: some processes repeat the first
            rows = np.resize(rows, self.batches_per_step)
        return [MicroBatch(waiting[-1].epoch, part) for part in np.array_split(rows, self.batches_per_step)]


class RowBatches(Dataset[Batch]):
    """Micro-batches as tensors: `dataset[MicroBatch(…)]`. Nothing per token happens in Python."""

    def __init__(self, rows: Rows, padding: Padding, vocabulary: int) -> None:
        self.rows = rows
        self.padding = padding
        self.vocabulary = vocabulary  # the model has embeddings for so many ids

    def __getitem__(self, micro: MicroBatch) -> Batch:
        flat, lengths = self.rows.take(micro.rows)
        if flat.size and int(flat.max()) >= self.vocabulary:
            raise UserError(
                f"The rows hold the token id {int(flat.max())}, but the model knows {self.vocabulary} ids; "
                "prepare the rows with the model's own tokenizer."
            )
        token_ids, attention_mask = pad(flat, lengths, self.padding)
        return Batch(
            token_ids=torch.from_numpy(token_ids),
            attention_mask=torch.from_numpy(attention_mask),
            row_ids=torch.from_numpy(np.ascontiguousarray(micro.rows)),
            epochs=torch.full((len(micro.rows),), micro.epoch, dtype=torch.int64),
            full=bool(attention_mask.all()),
        )


def pad(
    flat: NDArray[np.int32], lengths: NDArray[Any], padding: Padding
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that lie one after another become (B, L) token ids with special tokens, and their attention mask."""
    kept = np.minimum(lengths.astype(np.int64), padding.max_length - 2)
    width = int(padding.length(kept.astype(np.int32)).max(initial=2))
    inside = np.arange(width - 2)[None, :] < kept[:, None]  # (B, width − 2)
    starts = np.cumsum(lengths) - lengths
    token_ids = np.full((len(kept), width), padding.pad_id, dtype=np.int64)
    where = starts[:, None] + np.arange(width - 2)[None, :]
    token_ids[:, 1:-1][inside] = flat[where[inside]]
    token_ids[:, 0] = padding.cls_id
    token_ids[np.arange(len(kept)), kept + 1] = padding.sep_id
    attention_mask = (np.arange(width)[None, :] < (kept + 2)[:, None]).astype(np.int64)
    return token_ids, attention_mask


class RankSampler:
    """The micro-batches of one process, in order, from one step on."""

    def __init__(
        self, plan: BatchPlan, rank: int, world_size: int, start: int, total_steps: int, epochs: int | None
    ):
        self.plan, self.rank, self.world_size = plan, rank, world_size
        self.start, self.total_steps, self.epochs = start, total_steps, epochs

    def __len__(self) -> int:
        return (self.total_steps - self.start) * self.plan.batches_per_step // self.world_size

    def __iter__(self) -> Iterator[MicroBatch]:
        left = self.total_steps - self.start
        for step in self.plan.steps(self.start, self.epochs):
            if left <= 0:
                return
            yield from step[self.rank :: self.world_size]
            left -= 1


def loader(dataset: RowBatches, sampler: RankSampler, *, workers: int, pin_memory: bool) -> DataLoader[Batch]:
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,  # it samples micro-batches, not row numbers
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
    )
