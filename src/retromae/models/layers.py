"""The layers that decoders and heads are made of, built like the backbone's own (`LayerStyle`), with fresh weights."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.models.style import LayerStyle


class FeedForward(nn.Module):
    """The MLP of one layer, gated where the backbone's is."""

    def __init__(self, style: LayerStyle) -> None:
        super().__init__()
        self.gated = style.gated
        width = style.intermediate_size * (2 if style.gated else 1)
        self.inner = nn.Linear(style.hidden_size, width, bias=style.mlp_bias)
        self.outer = nn.Linear(style.intermediate_size, style.hidden_size, bias=style.mlp_bias)
        self.activation = ACT2FN[style.activation]

    def forward(self, hidden: Tensor) -> Tensor:
        inner, *gate = self.inner(hidden).chunk(2 if self.gated else 1, dim=-1)
        inner = self.activation(inner)
        hidden = self.outer(inner * gate[0] if gate else inner)
        return hidden


class DecoderLayer(nn.Module):
    """One transformer layer whose queries may come from another stream than its keys and values.

    Post-norm: x = norm(queries + attention(queries, context)); norm(x + mlp(x)).
    Pre-norm:  x = queries + attention(norm(queries), norm(context)); x + mlp(norm(x)).
    """

    def __init__(self, style: LayerStyle) -> None:
        super().__init__()
        self.style = style
        size, bias = style.hidden_size, style.attention_bias
        self.query = nn.Linear(size, size, bias=bias)
        self.key = nn.Linear(size, size, bias=bias)
        self.value = nn.Linear(size, size, bias=bias)
        self.output = nn.Linear(size, size, bias=bias)
        self.attention_norm = nn.LayerNorm(size, style.layer_norm_eps, bias=style.norm_bias)
        self.mlp = FeedForward(style)
        self.mlp_norm = nn.LayerNorm(size, style.layer_norm_eps, bias=style.norm_bias)
        self.dropout = nn.Dropout(style.dropout)
        _initialise(self, style.initializer_range)

    def forward(
        self, queries: Tensor, context: Tensor, visible: Tensor | None, asked: Tensor | None = None
    ) -> Tensor:
        """queries (B, L, d), context (B, S, d), visible bool, (B, L, S), (B, 1, S) or None for all → (B, L, d).

        A row for which nothing is visible gets zero from the attention's values. `asked` (n,) are the places of the
        rows, laid end to end, whose result is wanted: then it is theirs alone (n, d), and what each place does by
        itself is computed nowhere else.
        """
        return self._transformed(self._attended(queries, context, visible, asked))

    def _attended(
        self, queries: Tensor, context: Tensor, visible: Tensor | None, asked: Tensor | None = None
    ) -> Tensor:
        """The layer's first half."""
        norm = self.attention_norm if self.style.pre_norm else nn.Identity()
        attended = self._attend(norm(queries), norm(context), visible)
        if asked is not None:
            attended, queries = (x.flatten(0, 1).index_select(0, asked) for x in (attended, queries))
        hidden = queries + self.dropout(self.output(attended))
        return hidden if self.style.pre_norm else cast(Tensor, self.attention_norm(hidden))

    def _transformed(self, hidden: Tensor) -> Tensor:
        """Its second half."""
        if self.style.pre_norm:
            return hidden + cast(Tensor, self.dropout(self.mlp(self.mlp_norm(hidden))))
        return cast(Tensor, self.mlp_norm(hidden + self.dropout(self.mlp(hidden))))

    def _attend(self, queries: Tensor, context: Tensor, visible: Tensor | None) -> Tensor:
        """The heads' values beside each other, before the output projection."""
        sees, mask = None, None
        if visible is not None:
            # Softmax over nothing is NaN on some devices: let such a row look at position 0, and drop its result.
            sees = visible.any(dim=-1, keepdim=True)  # (B, L, 1)
            visible = torch.cat([visible[..., :1] | ~sees, visible[..., 1:]], dim=-1)
            mask = visible[:, None]  # (B, 1, L, S): the same for all heads
        attended = functional.scaled_dot_product_attention(
            self._heads(self.query(queries)),
            self._heads(self.key(context)),
            self._heads(self.value(context)),
            attn_mask=mask,
            dropout_p=self.style.attention_dropout if self.training else 0.0,
        )
        beside = attended.transpose(1, 2).flatten(2)
        return beside if sees is None else beside * sees

    def _heads(self, hidden: Tensor) -> Tensor:
        """(B, L, d) → (B, heads, L, d / heads)"""
        batch, length, _ = hidden.shape
        return hidden.view(batch, length, self.style.num_heads, -1).transpose(1, 2)


class SentenceDecoderLayer(DecoderLayer):
    """A layer with cross-attention to the one sentence vector between its self-attention and its MLP.

    Softmax over a single key is one, whatever query and key are: what every position gets is the vector's value,
    so there are no weights for queries and keys, which would never learn anything.
    Post-norm: norm(x + cross(h)). Pre-norm: x + cross(h); h is past its own last LayerNorm.
    """

    def __init__(self, style: LayerStyle) -> None:
        super().__init__(style)
        size, bias = style.hidden_size, style.attention_bias
        self.cross_value = nn.Linear(size, size, bias=bias)
        self.cross_output = nn.Linear(size, size, bias=bias)
        self.cross_norm: nn.Module = nn.Identity()
        if not style.pre_norm:
            self.cross_norm = nn.LayerNorm(size, style.layer_norm_eps, bias=style.norm_bias)
        _initialise(self, style.initializer_range)

    def decode(self, sentence: Tensor, hidden: Tensor, visible: Tensor) -> Tensor:
        """sentence (B, d), hidden (B, L, d), visible as for `forward` → (B, L, d)."""
        hidden = self._attended(hidden, hidden, visible)
        told = self.cross_output(self.cross_value(sentence))[:, None].expand_as(hidden)
        hidden = self.cross_norm(hidden + self.dropout(told))
        return self._transformed(hidden)


class DecoderPositions(nn.Module):
    """A learned position table for backbones that have none; it starts as sinusoids of the words' scale."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        some = torch.arange(0, backbone.vocab_size, 1 + backbone.vocab_size // 4096)
        words = backbone.token_embeddings(some.to(backbone.head_weight.device)).detach()
        scale = words.float().square().mean().sqrt().cpu()
        # The mean square of a sinusoid is one half.
        table = sinusoids(backbone.max_length, backbone.hidden_size) * (scale * math.sqrt(2.0))
        self.weight = nn.Parameter(table)

    def forward(self, length: int) -> Tensor:
        """(L, d)"""
        if length > len(self.weight):
            raise UserError(
                f"rows of {length} tokens do not fit: the decoder has {len(self.weight)} positions."
            )
        return self.weight[:length]


def final_norm(style: LayerStyle) -> nn.Module:
    """What follows the last layer: a LayerNorm in a pre-norm family."""
    if not style.pre_norm:
        return nn.Identity()
    return nn.LayerNorm(style.hidden_size, style.layer_norm_eps, bias=style.norm_bias)


def sinusoids(length: int, size: int) -> Tensor:
    """(length, size): sine in the first half of the columns, cosine in the second, wavelengths from 2π on."""
    half = (size + 1) // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10_000.0) / half))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :size]


def _initialise(module: nn.Module, std: float) -> None:
    """As transformers initialises a layer: normal weights, zero biases; LayerNorms stay at one and zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
