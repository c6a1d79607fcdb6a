"""A batch in several forward passes: in the memory of one of them, to the same result.

The loss of a batch is a sum of its rows' contributions and all draws are pure functions of the rows, so cutting
changes neither the loss nor its gradient, but for rounding; only dropout falls differently. It makes nothing faster:
the rows of a batch are of like length already, and a pass of few tokens is no better for the processor's caches
(docs/log.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from retromae.core.packing import cuts
from retromae.objectives import Batch, Drawn


@dataclass(frozen=True)
class Chunk:
    """Rows that go through the model together, with their draws."""

    batch: Batch
    drawn: Drawn
    micro: int  # which batch of the optimiser step they belong to
    number: int  # which part of that batch they are

    def tensors(self) -> Iterator[Tensor]:
        yield from self.batch.tensors()
        yield from self.drawn.tensors.values()
        yield from self.drawn.counts.values()


def cut(batch: Batch, tokens: int, multiple: int = 1) -> list[Batch]:
    """The rows of a batch, which lies on the host, in parts of at most `tokens` padded tokens, shortest rows first.

    Every part is cut to its own longest row, rounded up to `multiple`. A row longer than `tokens` stands alone. With
    0 tokens, or where all of it fits, the batch stays as it is.
    """
    rows, width = batch.token_ids.shape
    if tokens == 0 or rows * width <= tokens:
        return [batch]
    lengths = batch.attention_mask.sum(dim=1)
    padded = (-(-lengths // multiple) * multiple).clamp(max=width)
    order = padded.argsort(stable=True)
    sizes = padded[order].numpy()
    return [_take(batch, order[start:stop], int(sizes[stop - 1])) for start, stop in cuts(sizes, tokens)]


def _take(batch: Batch, rows: Tensor, length: int) -> Batch:
    attention_mask = batch.attention_mask[rows, :length]
    return replace(
        batch,
        token_ids=batch.token_ids[rows, :length],
        attention_mask=attention_mask,
        row_ids=batch.row_ids[rows],
        epochs=batch.epochs[rows],
        full=bool(attention_mask.all()),
    )
