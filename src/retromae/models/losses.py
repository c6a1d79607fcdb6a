"""The cross-entropy over the vocabulary, in chunks: pure functions that never hold (all rows) × (vocabulary).

The vocabulary is the main cost of pre-training, in time and in memory. `vocabulary_cross_entropy` takes the rows of
all parts of an objective in one pass and computes the gradients on the way, while a chunk's probabilities are still
in the buffer. DupMAE's bag of words, which is over the vocabulary too, has its file: `bag_of_words`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from retromae.models.compiled import compiled

CHUNK_ROWS = 512  # 512 to 1024 is best on the CPU measured (docs/log.md); 512 holds 62 MB at 30k words
FUSED_LOGITS, GPU_LOGITS = 2**28, 2**26  # of one chunk on a GPU, compiled (512 MiB in bfloat16) and not
_ALIGNED = 64  # a matrix product is fast where its sizes are multiples of this
Backend = Literal["chunked", "fused", "native", "plain"]


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """What matrix products run in: autocast's type where it is on, else the input's own."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def aligned_words(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(V, e), (V) → (V', e) in `dtype` and (V') float32, filled up to an aligned V' with words of no probability."""
    words, width = weight.shape
    number = -(-words // _ALIGNED) * _ALIGNED
    matrix = weight.new_zeros(number, width, dtype=dtype)
    matrix[:words] = weight
    offsets = weight.new_full((number,), -torch.inf, dtype=torch.float32)
    offsets[:words] = 0.0 if bias is None else bias
    return matrix, offsets


class _FusedCrossEntropy(torch.autograd.Function):
    """The same as `_ChunkedCrossEntropy`, for a device with large chunks and a compiler: logits stay in the type of the
    matrix products, and what lies between these products is one kernel."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scales: Tensor
    ) -> tuple[Tensor, Tensor]:
        compute, (n, words) = compute_dtype(hidden), (hidden.shape[0], weight.shape[0])
        with torch.autocast(hidden.device.type, enabled=False):
            matrix, offsets = aligned_words(weight, bias, compute)
            chunk = max(1, FUSED_LOGITS // matrix.shape[0] // _ALIGNED) * _ALIGNED
            nll = torch.empty(n, dtype=torch.float32, device=hidden.device)
            d_hidden = torch.empty_like(hidden)
            d_matrix = torch.zeros_like(matrix, dtype=torch.float32)
            d_offsets = torch.zeros_like(offsets)
            for start in range(0, n, chunk):
                part = slice(start, min(start + chunk, n))
                rows = hidden[part].to(compute)
                nll[part], gradient = compiled(_softmax_gradient)(
                    rows @ matrix.t(), offsets, targets[part], scales[part]
                )
                d_hidden[part] = gradient @ matrix
                d_matrix += gradient.t() @ rows
                d_offsets += gradient.sum(dim=0, dtype=torch.float32)
            loss = (nll * scales).sum()
        ctx.gradients = (d_hidden, d_matrix[:words], None if bias is None else d_offsets[:words])
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return (*_kept_gradients(ctx, grads[0]), None, None)


def _softmax_gradient(
    logits: Tensor, offsets: Tensor, targets: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor]:
    """(m, V) products, (V) what is added to them, (m), (m) → the cross-entropies (m) and their scaled gradient (m, V)
    with respect to the logits, in the type of these."""
    full = logits.float() + offsets
    top = full.amax(dim=1, keepdim=True)
    total = (full - top).exp().sum(dim=1, keepdim=True)
    nll = (top + total.log() - full.gather(1, targets[:, None]))[:, 0]
    right = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    gradient = ((full - top).exp() / total - right.float()) * scales[:, None]
    return nll, gradient.to(logits.dtype)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Σ_r scale_r · CE_r and its gradients in one forward pass over chunks with one reused buffer.

    The buffer holds a word per line, (V, m): the product that fills it is a third faster that way round on a CPU, where
    a line for each of the m rows is as long as the vocabulary.
    """

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
        compute = compute_dtype(hidden)
        n, vocabulary = hidden.shape[0], weight.shape[0]
        learns = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        with torch.autocast(hidden.device.type, enabled=False):
            low_weight = weight.to(compute)
            buffer = torch.empty(vocabulary * min(chunk, n), dtype=torch.float32, device=hidden.device)
            nll = torch.empty(n, dtype=torch.float32, device=hidden.device)
            d_hidden = torch.empty_like(hidden) if learns else None
            d_weight = torch.zeros_like(weight, dtype=torch.float32) if learns else None
            d_bias = torch.zeros_like(bias, dtype=torch.float32) if learns and bias is not None else None
            for start in range(0, n, chunk):
                part = slice(start, min(start + chunk, n))
                rows = hidden[part].to(compute)
                logits = buffer[: vocabulary * rows.shape[0]].view(vocabulary, -1)
                product_into(logits, low_weight, rows, None if bias is None else bias[:, None])
                target = targets[None, part]
                right = logits.gather(0, target)[0]
                top = logits.amax(dim=0)
                total = logits.sub_(top).exp_().sum(dim=0)
                nll[part] = top - right + total.log()
                if d_hidden is None or d_weight is None:
                    continue
                # The buffer becomes (softmax − one-hot) · total; what that is too much goes to the small factors.
                logits.scatter_add_(0, target, -total[None])
                scale = scales[part] / total
                low = logits.to(compute)
                d_hidden[part] = (low.t() @ low_weight) * scale[:, None]
                scaled = (rows * scale[:, None]).to(compute)
                if compute == torch.float32:
                    d_weight.addmm_(low, scaled)
                else:
                    d_weight += low @ scaled
                if d_bias is not None:
                    d_bias.addmv_(logits, scale)
            loss = (nll * scales).sum()
        ctx.gradients = (d_hidden, d_weight, d_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return (*_kept_gradients(ctx, grads[0]), None, None, None)


def _kept_gradients(ctx: Any, gradient_of_loss: Tensor) -> list[Tensor | None]:
    """What the forward pass left of hidden states, weight and bias."""
    if ctx.gradients is None:
        raise RuntimeError("the chunked vocabulary loss keeps its gradients for one backward pass only")
    gradients = [
        None if gradient is None else gradient.mul_(gradient_of_loss).to(dtype)
        for gradient, dtype in zip(ctx.gradients, ctx.dtypes)
    ]
    ctx.gradients = None  # freed as soon as handed over
    return gradients


def product_into(out: Tensor, left: Tensor, right: Tensor, bias: Tensor | None) -> None:
    """out (float32) ← left · rightᵀ + bias, without a second buffer where the types allow."""
    if left.dtype == torch.float32:
        if bias is None:
            torch.mm(left, right.t(), out=out)
        else:
            torch.addmm(bias, left, right.t(), out=out)
    else:
        out.copy_(left @ right.t())
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

    `chunked` is ours and runs on every torch; `fused` is the same for a GPU that compiles, in chunks of its own size;
    `native` is torch's function (from 2.13); `plain` holds all logits and is there to compare with. All agree in value
    and gradient; on a CPU the first and the third are equally fast.
    """
    if backend in ("chunked", "fused"):
        row_scales = torch.cat([scales[g].expand(n) for g, n in enumerate(sizes)]).float()
        function: Any = _ChunkedCrossEntropy if backend == "chunked" else _FusedCrossEntropy
        more = (chunk,) if backend == "chunked" else ()
        loss, nll = function.apply(hidden, weight, bias, targets, row_scales, *more)
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
            product_into(rows, hidden[part].to(weight.dtype), weight, bias)
            _log_softmax_(rows)
            nll[part] = -rows.gather(1, targets[part, None])[:, 0]
            hits[part] = rows.argmax(dim=-1) == targets[part]
    return nll, hits
