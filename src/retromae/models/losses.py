"""Losses over the vocabulary, in chunks: pure functions that never hold (all rows) × (vocabulary).

The vocabulary is the main cost of pre-training, in time and in memory. `vocabulary_cross_entropy` takes the rows of
all parts of an objective in one pass and computes the gradients on the way, while a chunk's probabilities are still
in the buffer. `max_pooled_logits` is DupMAE's bag of words: the element-wise maximum of the logits of a passage's
tokens, whose gradient reaches one token per (passage, word), so that its backward costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ROWS = 512  # 512 to 1024 is best on the CPU measured (docs/log.md); 512 holds 62 MB at 30k words
Backend = Literal["chunked", "native", "plain"]


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """What matrix products run in: autocast's type where it is on, else the input's own."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Σ_r scale_r · CE_r and its gradients in one forward pass over chunks with one reused buffer."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (n, e)
        weight: Tensor,  # (V, e)
        bias: Tensor | None,  # (V)
        targets: Tensor,  # (n) int64
        scales: Tensor,  # (n) float32
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        compute = _compute_dtype(hidden)
        n, vocabulary = hidden.shape[0], weight.shape[0]
        learns = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        with torch.autocast(hidden.device.type, enabled=False):
            low_weight = weight.to(compute)
            buffer = torch.empty(min(chunk, n), vocabulary, dtype=torch.float32, device=hidden.device)
            nll = torch.empty(n, dtype=torch.float32, device=hidden.device)
            d_hidden = torch.empty_like(hidden) if learns else None
            d_weight = torch.zeros_like(weight, dtype=torch.float32) if learns else None
            d_bias = torch.zeros_like(bias, dtype=torch.float32) if learns and bias is not None else None
            for start in range(0, n, chunk):
                part = slice(start, min(start + chunk, n))
                rows = hidden[part].to(compute)
                logits = buffer[: rows.shape[0]]
                _logits_into(logits, rows, low_weight, bias)
                _log_softmax_(logits)
                target = targets[part, None]
                nll[part] = -logits.gather(1, target)[:, 0]
                if d_hidden is None or d_weight is None:
                    continue
                # The buffer becomes softmax − one-hot; the row's scale goes to the small factors of the products.
                logits.exp_()
                logits.scatter_add_(1, target, torch.full_like(target, -1, dtype=torch.float32))
                scale = scales[part]
                low = logits.to(compute)
                d_hidden[part] = (low @ low_weight) * scale[:, None]
                scaled = rows * scale[:, None].to(compute)
                if compute == torch.float32:
                    d_weight.addmm_(low.t(), scaled)
                else:
                    d_weight += low.t() @ scaled
                if d_bias is not None:
                    d_bias.addmv_(logits.t(), scale)
            loss = (nll * scales).sum()
        ctx.gradients = (d_hidden, d_weight, d_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the chunked vocabulary loss keeps its gradients for one backward pass only")
        gradients = [
            None if gradient is None else gradient.mul_(grads[0]).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes)
        ]
        ctx.gradients = None  # freed as soon as handed over
        return (*gradients, None, None, None)


def _logits_into(out: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """out (float32) ← rows · weightᵀ + bias, without a second buffer where the types allow."""
    if rows.dtype == torch.float32:
        if bias is None:
            torch.mm(rows, weight.t(), out=out)
        else:
            torch.addmm(bias, rows, weight.t(), out=out)
    else:
        out.copy_(rows @ weight.t())
        if bias is not None:
            out += bias


def _log_softmax_(logits: Tensor) -> None:
    """In place. The CPU kernel may write over its input; elsewhere the two steps are taken apart."""
    if logits.device.type == "cpu":
        torch.log_softmax(logits, dim=-1, out=logits)
    else:
        logits -= logits.logsumexp(dim=-1, keepdim=True)


def _native_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int
) -> Tensor:
    """torch's own chunked function (2.13 and later). Its automatic chunk is slow, so ours is always set."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk)
    return F.linear_cross_entropy(hidden, weight, targets, linear_bias=bias, reduction="sum", options=options)


def native_available() -> bool:
    return hasattr(F, "linear_cross_entropy") and hasattr(torch.nn, "LinearCrossEntropyOptions")


def vocabulary_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    sizes: Sequence[int],
    scales: Tensor,
    *,
    chunk: int = CHUNK_ROWS,
    backend: Backend = "chunked",
) -> tuple[Tensor, Tensor]:
    """Cross-entropy over the vocabulary of several parts of an objective, in one pass.

    hidden   (n, e): the rows that have a label, after the head's transform; part after part
    weight   (V, e), bias (V) or None: the rest of the head
    targets  (n,) int64
    sizes    how many of the n rows belong to each part
    scales   (G,) float32: part g contributes scales[g] · Σ CE
    returns  the loss, and the parts' sums Σ CE as a (G,) tensor without gradient

    `chunked` is ours and runs on every torch; `native` is torch's function (from 2.13); `plain` holds all logits
    and is there to compare with. All three agree in value and gradient; the first two are equally fast.
    """
    if backend == "chunked":
        row_scales = torch.cat([scales[g].expand(n) for g, n in enumerate(sizes)]).float()
        loss, nll = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden, weight, bias, targets, row_scales, chunk
        )
        return loss, torch.stack([part.sum() for part in torch.split(nll, list(sizes))])
    if backend == "native" and not native_available():
        raise RuntimeError(f"torch {torch.__version__} has no linear_cross_entropy; use backend='chunked'")
    sums = []
    for rows, labels in zip(torch.split(hidden, list(sizes)), torch.split(targets, list(sizes))):
        if labels.shape[0] == 0:
            sums.append((rows.sum() + weight.sum()) * 0.0)  # keeps the graph whole
        elif backend == "native":
            sums.append(_native_cross_entropy(rows, weight, bias, labels, chunk))
        else:
            sums.append(F.cross_entropy(F.linear(rows, weight, bias), labels, reduction="sum"))
    stacked = torch.stack([value.float() for value in sums])
    return (stacked * scales).sum(), stacked.detach()


@torch.no_grad()
def vocabulary_scores(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, chunk: int = CHUNK_ROWS
) -> tuple[Tensor, Tensor]:
    """For watching: (n,) cross-entropies and (n,) whether the target is the most likely word; no gradient."""
    n, vocabulary = hidden.shape[0], weight.shape[0]
    nll = torch.empty(n, dtype=torch.float32, device=hidden.device)
    hits = torch.empty(n, dtype=torch.bool, device=hidden.device)
    logits = torch.empty(min(chunk, n), vocabulary, dtype=torch.float32, device=hidden.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, n, chunk):
            part = slice(start, min(start + chunk, n))
            rows = logits[: part.stop - start]
            _logits_into(rows, hidden[part].to(weight.dtype), weight, bias)
            _log_softmax_(rows)
            nll[part] = -rows.gather(1, targets[part, None])[:, 0]
            hits[part] = rows.argmax(dim=-1) == targets[part]
    return nll, hits


class _MaxPooledLogits(torch.autograd.Function):
    """μ[b, v] = max over the tokens t of passage b of ⟨hidden[b, t], weight[v]⟩ + bias[v]."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, counted: Tensor, chunk: int
    ) -> Tensor:
        compute = _compute_dtype(hidden)
        batch, length, width = hidden.shape
        vocabulary = weight.shape[0]
        with torch.autocast(hidden.device.type, enabled=False):
            low_weight = weight.to(compute)
            per_chunk = max(1, chunk // length)  # passages whose logits are held at once
            buffer = torch.empty(per_chunk * length, vocabulary, dtype=torch.float32, device=hidden.device)
            pooled = torch.empty(batch, vocabulary, dtype=torch.float32, device=hidden.device)
            winners = torch.empty(batch, vocabulary, dtype=torch.int64, device=hidden.device)
            for start in range(0, batch, per_chunk):
                part = slice(start, min(start + per_chunk, batch))
                rows = hidden[part].reshape(-1, width).to(compute)
                logits = buffer[: rows.shape[0]]
                _logits_into(logits, rows, low_weight, None)
                logits = logits.view(-1, length, vocabulary)
                logits.masked_fill_(~counted[part, :, None], -torch.inf)
                torch.max(logits, dim=1, out=(pooled[part], winners[part]))
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


def max_pooled_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, counted: Tensor, *, chunk: int = CHUNK_ROWS
) -> Tensor:
    """DupMAE's μ (B, V): the element-wise maximum over a passage's tokens of their vocabulary logits.

    hidden (B, L, e) after the head's transform; counted (B, L) bool, True for the tokens that take part, at least
    one per passage. Holds `chunk` × V logits at a time (one passage at least). Where two tokens give exactly the
    same maximum, one of them takes the gradient.
    """
    pooled: Tensor = _MaxPooledLogits.apply(hidden, weight, bias, counted, chunk)  # type: ignore[no-untyped-call]
    return pooled


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
