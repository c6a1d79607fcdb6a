"""Which rows a pre-training run takes, in which batches: what follows from its settings before anything is trained.

Whoever plans a run (how many steps are so many tokens?) and the run itself ask here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from retromae.core import distributed
from retromae.core.errors import UserError
from retromae.text.rows import Rows
from retromae.training.batches import BatchPlan, MicroBatch, Padding
from retromae.training.heldout import default_share, split
from retromae.training.settings import PretrainConfig

Flops = Callable[[int, int], float]  # (rows, length) → what one training step on such a batch takes


class Spent(NamedTuple):
    """What some optimiser steps take: tokens of text with their special tokens, and floating-point operations."""

    tokens: int
    flops: float


@dataclass(frozen=True)
class RowPlan:
    """The rows of a run, dealt out: those that are trained on, those that are held out, and the batches."""

    padding: Padding
    train_rows: NDArray[np.int64]
    held_out: NDArray[np.int64]
    batches: BatchPlan
    lengths: NDArray[np.int32]  # of all rows, without special tokens

    @classmethod
    def of(cls, config: PretrainConfig, rows: Rows, tokenizer: Any, positions: int) -> RowPlan:
        """`positions` is how many tokens the model has positions for."""
        padding = padding_of(config, tokenizer, positions)
        share = default_share(len(rows)) if config.holdout is None else config.holdout
        train_rows, held_out = split(rows, share, config.eval_rows)
        if not len(train_rows):
            raise UserError(f"'{config.rows}' has no rows left to train on; lower holdout.")
        lengths = rows.lengths[train_rows]
        mean = float(padding.length(lengths).mean())
        batches = BatchPlan(
            train_rows,
            lengths,
            padding,
            config.tokens_per_batch or round(config.per_device_train_batch_size * mean),
            config.seed,
            batches_per_step=distributed.world_size() * config.gradient_accumulation_steps,
        )
        return cls(padding, train_rows, held_out, batches, rows.lengths)

    def spending(self, flops: Flops | None = None) -> Iterator[Spent]:
        """What each optimiser step takes, without end; without `flops` those count as none."""
        for step in self.batches.steps():
            parts = [self._spent(micro, flops) for micro in step]
            yield Spent(sum(part.tokens for part in parts), sum(part.flops for part in parts))

    def _spent(self, micro: MicroBatch, flops: Flops | None) -> Spent:
        lengths = self.lengths[micro.rows]
        tokens = np.minimum(lengths.astype(np.int64) + 2, self.padding.max_length).sum()
        longest = int(self.padding.length(lengths).max())
        return Spent(int(tokens), flops(len(micro.rows), longest) if flops else 0.0)


def padding_of(config: PretrainConfig, tokenizer: Any, positions: int) -> Padding:
    if config.max_seq_length > positions:
        raise UserError(
            f"max_seq_length is {config.max_seq_length}, but this model has positions for "
            f"{positions} tokens; lower it."
        )
    multiple = config.pad_to_multiple_of or (8 if torch.cuda.is_available() else 1)
    return Padding(
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
        tokenizer.pad_token_id,
        config.max_seq_length,
        multiple,
    )
