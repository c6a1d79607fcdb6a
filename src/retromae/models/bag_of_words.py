"""DupMAE's bag of words: the element-wise maximum of the logits of a passage's tokens, in chunks.

Its gradient reaches one token per (passage, word). So on a CPU the backward pass is two weighted sums of rows, next to
nothing; a GPU is faster at the dense products, chunk by chunk.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from retromae.models.compiled import compiled
from retromae.models.losses import (
    CHUNK_ROWS,
    FUSED_LOGITS,
    GPU_LOGITS,
    aligned_words,
    compute_dtype,
    product_into,
)

# Of the vocabulary at once: their logits are looked through while a processor's cache holds them.
_WORDS = 1024


class _MaxPooledLogits(torch.autograd.Function):
    """μ[b, v] = max over the tokens t of passage b of ⟨hidden[b, t], weight[v]⟩ + bias[v]."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, counted: Tensor, chunk: int
    ) -> Tensor:
        compute = compute_dtype(hidden)
        batch, length, width = hidden.shape
        vocabulary = weight.shape[0]
        with torch.autocast(hidden.device.type, enabled=False):
            low_weight = weight.to(compute)
            per_chunk = max(1, chunk // length)  # passages whose logits are held at once
            buffer = torch.empty(per_chunk * length * _WORDS, dtype=torch.float32, device=hidden.device)
            pooled = torch.empty(batch, vocabulary, dtype=torch.float32, device=hidden.device)
            winners = torch.empty(batch, vocabulary, dtype=torch.int64, device=hidden.device)
            for start in range(0, batch, per_chunk):
                part = slice(start, min(start + per_chunk, batch))
                rows = hidden[part].reshape(-1, width).to(compute)
                for first in range(0, vocabulary, _WORDS):
                    block = slice(first, min(first + _WORDS, vocabulary))
                    logits = buffer[: len(rows) * (block.stop - first)].view(len(rows), -1)
                    product_into(logits, rows, low_weight[block], None)
                    by_passage = logits.view(-1, length, block.stop - first)
                    by_passage.masked_fill_(~counted[part, :, None], -torch.inf)
                    pooled[part, block], winners[part, block] = by_passage.max(dim=1)
            if bias is not None:
                pooled += bias  # the same for every token, so it may be added after the maximum
        ctx.save_for_backward(hidden, weight, winners)
        ctx.compute = compute
        ctx.has_bias = bias is not None
        return pooled

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, winners = ctx.saved_tensors
        gradient = grads[0].float()
        batch, length, width = hidden.shape
        vocabulary = weight.shape[0]
        # One token wins each (passage, word). Two weighted sums of rows follow, which embedding_bag fuses:
        # no (B·L, V) matrix is made.
        flat = winners + torch.arange(batch, device=hidden.device)[:, None] * length  # (B, V) → token
        d_weight = F.embedding_bag(
            flat.t().contiguous(),
            hidden.reshape(-1, width).float(),
            mode="sum",
            per_sample_weights=gradient.t().contiguous(),
        )
        order = flat.reshape(-1).argsort(stable=True)
        wins = torch.bincount(flat.reshape(-1), minlength=batch * length)
        d_hidden = F.embedding_bag(
            order % vocabulary,
            weight.float(),
            wins.cumsum(0) - wins,
            mode="sum",
            per_sample_weights=gradient.reshape(-1)[order],
        )
        d_bias = gradient.sum(0) if ctx.has_bias else None
        return d_hidden.view_as(hidden).to(hidden.dtype), d_weight.to(weight.dtype), d_bias, None, None


class _DenseMaxPooledLogits(torch.autograd.Function):
    """The same for a GPU, which is faster at dense products than at sums of rows that lie apart. Logits stay in the
    type of the matrix products; `fused` compiles what is done with them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, counted: Tensor, fused: bool
    ) -> Tensor:
        batch, length, _ = hidden.shape
        highest = compiled(_highest) if fused else _highest
        with torch.autocast(hidden.device.type, enabled=False):
            matrix, offsets = aligned_words(weight, bias, compute_dtype(hidden))
            pooled = torch.empty(batch, matrix.shape[0], dtype=torch.float32, device=hidden.device)
            winners = torch.empty(batch, matrix.shape[0], dtype=torch.int64, device=hidden.device)
            for part in _passages(batch, length, matrix, fused):
                logits = hidden[part].to(matrix.dtype) @ matrix.t()
                pooled[part], winners[part] = highest(logits, offsets, counted[part])
        ctx.save_for_backward(hidden, weight, winners)
        ctx.matrix, ctx.has_bias, ctx.fused = matrix, bias is not None, fused
        return pooled[:, : weight.shape[0]]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, winners = ctx.saved_tensors
        matrix, words = ctx.matrix, weight.shape[0]
        to_winners = compiled(_to_winners) if ctx.fused else _to_winners
        batch, length, width = hidden.shape
        gradient = F.pad(grads[0].float(), (0, matrix.shape[0] - words))
        d_hidden = torch.empty_like(hidden)
        d_matrix = torch.zeros_like(matrix, dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _passages(batch, length, matrix, ctx.fused):
                dense = to_winners(gradient[part], winners[part], length, matrix.dtype)
                d_hidden[part] = dense @ matrix
                d_matrix += dense.flatten(0, 1).t() @ hidden[part].reshape(-1, width).to(matrix.dtype)
        d_bias = grads[0].sum(0) if ctx.has_bias else None
        return d_hidden, d_matrix[:words].to(weight.dtype), d_bias, None, None


def _passages(batch: int, length: int, matrix: Tensor, fused: bool) -> list[slice]:
    """Which passages have their logits held at once."""
    number = max(1, (FUSED_LOGITS if fused else GPU_LOGITS) // (matrix.shape[0] * length))
    return [slice(start, min(start + number, batch)) for start in range(0, batch, number)]


def _highest(logits: Tensor, offsets: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """(b, L, V), (V), (b, L) → the highest over the counted tokens and which it was, both (b, V)."""
    values, which = logits.masked_fill(~counted[:, :, None], -torch.inf).max(dim=1)
    return values.float() + offsets, which


def _to_winners(gradient: Tensor, winners: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """(b, V), (b, V) → (b, L, V): each value where its winner is, zeros elsewhere."""
    place = torch.arange(length, device=gradient.device)[None, :, None]
    return torch.where(place == winners[:, None], gradient[:, None], 0.0).to(dtype)


def max_pooled_logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    counted: Tensor,
    *,
    chunk: int = CHUNK_ROWS,
    dense: bool | None = None,
    fused: bool = False,
) -> Tensor:
    """DupMAE's μ (B, V): the element-wise maximum over a passage's tokens of their vocabulary logits.

    hidden (B, L, e) after the head's transform; counted (B, L) bool, True for the tokens that take part, at least
    one per passage. Holds `chunk` × V logits at a time (one passage at least); with `dense`, the default on a
    GPU, as many as suit that, and `fused` compiles it. Where two tokens give exactly the same maximum, one of them
    takes the gradient.
    """
    if hidden.is_cuda if dense is None else dense:
        return cast(Tensor, _DenseMaxPooledLogits.apply(hidden, weight, bias, counted, fused))  # type: ignore[no-untyped-call]
    return cast(Tensor, _MaxPooledLogits.apply(hidden, weight, bias, counted, chunk))  # type: ignore[no-untyped-call]


def bag_of_words(pooled: Tensor, token_ids: Tensor, counted: Tensor, *, per_token: bool = False) -> Tensor:
    """(B,) loss of each passage: −log softmax(μ) over the passage's distinct words, averaged.

    pooled (B, V) is μ; token_ids (B, L) the unmasked passage; counted (B, L) its ordinary tokens.
    `per_token` divides by the number of tokens instead of distinct words, as the released code does: its weights
    do not sum to 1 when tokens repeat, and it is there for comparison only.
    """
    bag = torch.zeros_like(pooled, dtype=torch.bool)
    # Uncounted positions write where a counted one does: to the row's first counted word.
    first = token_ids.gather(1, counted.to(torch.uint8).argmax(dim=1, keepdim=True))
    bag.scatter_(1, torch.where(counted, token_ids, first), True)
    missing = (pooled.log_softmax(dim=-1) * bag).sum(dim=-1).neg()
    size = counted.sum(dim=1) if per_token else bag.sum(dim=1)
    return missing / size.clamp(min=1)
