"""What a training step must compute: the floating-point operations of its matrix products, by the layers' sizes.

A product of (m, k) and (k, n) counts 2·m·n·k. Element-wise work (LayerNorm, softmax, dropout, activations, the
optimiser) is left out, as usual, and so is what gradient checkpointing and compiling add: layers that are computed
twice, and the last one at positions that nobody reads. Attention counts every pair of positions, hidden ones too: that
is what masked attention computes, unless a kernel skips a sliding window's outside.

Functions give one forward pass, unless they say otherwise; `TRAINING` times that is forward and backward.
"""

from __future__ import annotations

from typing import Any

from retromae.models.backbone import Backbone
from retromae.models.style import LayerStyle

TRAINING = 3  # every product is followed by two as large: for the gradients of its two factors


def ordinary_tokens(rows: int, length: int) -> int:
    """Tokens of full rows that an objective may ask for: all but [CLS] and [SEP]."""
    return rows * max(length - 2, 0)


def layers(
    style: LayerStyle, number: int, rows: int, length: int, *, cross: bool = False, asked: float | None = None
) -> float:
    """`number` layers over (rows, length, d); `cross`: each with cross-attention to one vector per row; `asked`: how
    many positions of the last one are wanted, if not all."""
    size = style.hidden_size
    before = 2.0 * 3 * rows * length * size * size  # query, key, value
    sentence = 2.0 * 2 * rows * size * size if cross else 0.0  # value and output of one vector
    whole = before + attention(style, rows, length) + after_attention(style, rows * length) + sentence
    left_out = 0.0 if asked is None else after_attention(style, rows * length - asked)
    return number * whole - left_out


def after_attention(style: LayerStyle, positions: float) -> float:
    """The part of one layer in which every position is by itself: the output projection and the MLP."""
    matrices = 3 if style.gated else 2
    return 2.0 * positions * style.hidden_size * (style.hidden_size + matrices * style.intermediate_size)


def attention(style: LayerStyle, rows: int, length: int) -> float:
    """The part of one layer that grows with the square of the length: scores, and the weighted sum of values."""
    return 2.0 * 2 * rows * length * length * style.hidden_size


def encoder(backbone: Backbone, rows: int, length: int, needed: float | None = None) -> float:
    """The backbone's encoder over (rows, length) token ids; `needed` of their positions are read, or all."""
    unread = rows * length - needed if needed is not None and backbone.last.leaves_out else 0.0
    return (
        embeddings(backbone, rows, length)
        + layers(backbone.style, backbone.num_layers, rows, length)
        + backbone.num_layers * _relative_attention(backbone, rows, length)
        - after_attention(backbone.style, unread)
    )


def embeddings(backbone: Backbone, rows: int, length: int) -> float:
    """Embeddings that are smaller than the hidden size are projected; others are only looked up."""
    size, width = backbone.hidden_size, backbone.head_weight.shape[1]
    return 0.0 if width == size else 2.0 * rows * length * width * size


def vocabulary(backbone: Backbone, labels: float) -> float:
    """The vocabulary head, both halves, over `labels` hidden states."""
    words, width = backbone.head_weight.shape
    return labels * 2 * width * (backbone.hidden_size + words)


def bag_of_words_step(backbone: Backbone, rows: int, length: int) -> float:
    """The element-wise maximum of all tokens' logits, forward and backward.

    Going back, each (row, word) has one token that won, so the large product is not repeated.
    """
    words, width = backbone.head_weight.shape
    transform = 2 * rows * length * width * backbone.hidden_size
    logits = 2 * rows * length * width * words
    winners = 2 * rows * width * words
    return float(TRAINING * transform + logits + 2 * winners)


def _relative_attention(backbone: Backbone, rows: int, length: int) -> float:
    """What DeBERTa's attention adds in one layer: the scores between tokens and relative distances."""
    config: Any = backbone.config
    if not getattr(config, "relative_attention", False):
        return 0.0
    kinds = len(config.pos_att_type or [])
    longest = getattr(config, "max_relative_positions", -1)
    span = longest if longest > 0 else config.max_position_embeddings
    if config.model_type == "deberta":
        span = min(length, span)
    elif getattr(config, "position_buckets", -1) > 0:
        span = config.position_buckets
    distances, size = 2 * span, backbone.hidden_size
    return float(kinds * (2 * distances * size * size + 2 * rows * length * distances * size))
