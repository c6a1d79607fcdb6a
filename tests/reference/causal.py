"""A decoder that writes from left to right with cross-attention to one vector: one position and one head at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reference import decoding
from reference.decoding import feed_forward, layer_norm, linear
from reference.objectives import Passage, Setting


def cross_attend(sentence: Tensor, layer: Any) -> Tensor:
    """Attention over the one key: any score at all becomes the weight exp(s) / exp(s)."""
    heads, arbitrary = layer.style.num_heads, torch.tensor(0.7, dtype=sentence.dtype)
    parts = []
    for value in linear(sentence, layer.cross_value).chunk(heads):
        weights = torch.exp(arbitrary) / sum(torch.exp(score) for score in [arbitrary])
        parts.append(weights * value)
    return linear(torch.cat(parts), layer.cross_output)


def layer_row(rows: list[Tensor], i: int, seen: list[int], sentence: Tensor, layer: Any) -> Tensor:
    if layer.style.pre_norm:
        normed = [layer_norm(row, layer.attention_norm) for row in rows]
        x = rows[i] + decoding.attend(normed[i], normed, seen, layer)
        x = x + cross_attend(sentence, layer)
        return x + feed_forward(layer_norm(x, layer.mlp_norm), layer.mlp)
    x = layer_norm(rows[i] + decoding.attend(rows[i], rows, seen, layer), layer.attention_norm)
    x = layer_norm(x + cross_attend(sentence, layer), layer.cross_norm)
    return layer_norm(x + feed_forward(x, layer.mlp), layer.mlp_norm)


def predictions(setting: Setting, sentence: Tensor, ids: list[int], span: int | None) -> dict[int, Tensor]:
    """t → the state that must predict token t, from the tokens before t and the sentence vector."""
    backbone, decoder = setting.objective.backbone, setting.objective.decoder
    e = backbone.token_embeddings(torch.tensor(ids))
    p = backbone.position_embeddings(len(ids))
    p = decoder.positions.weight if p is None else p
    rows = [e[i] + p[i] for i in range(len(ids))]
    for layer in decoder.layers:
        first = [0 if span is None else max(0, i - span + 1) for i in range(len(ids))]
        rows = [layer_row(rows, i, list(range(first[i], i + 1)), sentence, layer) for i in range(len(ids))]
    return {i + 1: decoding.finish(rows[i], decoder.final_norm) for i in range(len(ids) - 1)}


def losses(setting: Setting, sentence: Tensor, passage: Passage, span: int | None) -> list[Tensor]:
    """Of every ordinary token of the passage."""
    states = predictions(setting, sentence, passage.ids, span)
    tokens = [t for t, word in enumerate(setting.words(passage.ids)) if word >= 0]
    return [setting.loss_at(states[t], passage.ids[t]) for t in tokens]
