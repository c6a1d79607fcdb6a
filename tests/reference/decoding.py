"""RetroMAE's decoders written from the equations, one passage, one row and one head at a time.

Slow and obvious on purpose. `layer` is a `retromae.models.layers.DecoderLayer`, of which only the weights
are used; dropout is not modelled.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    normal = (x - x.mean()) / torch.sqrt(((x - x.mean()) ** 2).mean() + norm.eps)
    return normal * norm.weight + (0.0 if norm.bias is None else norm.bias)


def linear(x: Tensor, module: Any) -> Tensor:
    return module.weight @ x + (0.0 if module.bias is None else module.bias)


def feed_forward(x: Tensor, mlp: Any) -> Tensor:
    inner = linear(x, mlp.inner)
    if mlp.gated:
        half = len(inner) // 2
        return linear(mlp.activation(inner[:half]) * inner[half:], mlp.outer)
    return linear(mlp.activation(inner), mlp.outer)


def attend(query: Tensor, context: list[Tensor], seen: list[int], layer: Any) -> Tensor:
    """softmax(Qᵀ K / √(d / heads) + M) V of one row, head after head; a row that sees nothing gets zero."""
    heads = layer.style.num_heads
    size = len(query) // heads
    q = linear(query, layer.query)
    keys = [linear(context[j], layer.key) for j in seen]
    values = [linear(context[j], layer.value) for j in seen]
    parts = []
    for head in range(heads):
        cut = slice(head * size, (head + 1) * size)
        if not seen:
            parts.append(torch.zeros_like(q[cut]))
            continue
        scores = torch.stack([q[cut] @ key[cut] / math.sqrt(size) for key in keys])
        weights = torch.exp(scores - scores.max())
        weights = weights / weights.sum()
        parts.append(sum(w * value[cut] for w, value in zip(weights, values)))
    return linear(torch.cat(parts), layer.output)


def layer_row(query: Tensor, context: list[Tensor], seen: list[int], layer: Any) -> Tensor:
    if layer.style.pre_norm:
        normed = [layer_norm(row, layer.attention_norm) for row in context]
        x = query + attend(layer_norm(query, layer.attention_norm), normed, seen, layer)
        return x + feed_forward(layer_norm(x, layer.mlp_norm), layer.mlp)
    x = layer_norm(query + attend(query, context, seen, layer), layer.attention_norm)
    return layer_norm(x + feed_forward(x, layer.mlp), layer.mlp_norm)


def finish(row: Tensor, final_norm: Any) -> Tensor:
    return layer_norm(row, final_norm) if hasattr(final_norm, "weight") else row


def enhanced(decoder: Any, h: Tensor, e: Tensor, p: Tensor, visible: Tensor, norm: Any = None) -> Tensor:
    """Eq. 4 to 7 for one passage: h (d), e (L, d), p (L, d), visible (L, L); `norm` is applied to e + p."""
    length = len(e)
    placed = [e[i] + p[i] for i in range(length)]
    if norm is not None:
        placed = [layer_norm(row, norm) for row in placed]
    h1 = [h + p[i] for i in range(length)]
    h2 = [h, *placed[1:]]
    rows = []
    for i in range(length):
        seen = [j for j in range(length) if visible[i, j]]
        rows.append(finish(layer_row(h1[i], h2, seen, decoder.layer), decoder.final_norm))
    return torch.stack(rows)


def basic(decoder: Any, h: Tensor, e: Tensor, p: Tensor, attention_mask: Tensor) -> Tensor:
    """Eq. 2 and 3 for one passage, as many layers as the decoder has."""
    length = len(e)
    seen = [j for j in range(length) if attention_mask[j]]
    rows = [h, *(e[i] + p[i] for i in range(1, length))]
    for layer in decoder.layers:
        rows = [layer_row(row, rows, seen, layer) for row in rows]
    return torch.stack([finish(row, decoder.final_norm) for row in rows])
