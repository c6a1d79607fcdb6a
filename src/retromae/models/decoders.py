"""RetroMAE's decoders: they rebuild a passage from its [CLS] vector and little else.

Both are built like the backbone's own layers (`Backbone.style`) and start from fresh weights; they share the
backbone's word embeddings, its positions and its vocabulary head, which the objective passes in or applies.

`EnhancedDecoder`  one layer, two streams (RetroMAE, Eq. 4 to 7): every position has its own context.
`BasicDecoder`     one to three layers of plain self-attention (Eq. 2 and 3).

Departure from the released code, in one place: there the keys and values of the enhanced decoder go through
the backbone's embedding LayerNorm. Eq. 4 has none and neither do we, unless `embedding_norm="context"`.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from retromae.core.errors import UserError
from retromae.models.backbone import Backbone, LayerStyle

EmbeddingNorm = Literal["none", "context"]


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

    def forward(self, queries: Tensor, context: Tensor, visible: Tensor) -> Tensor:
        """queries (B, L, d), context (B, S, d), visible bool, (B, L, S) or (B, 1, S) → (B, L, d).

        A row for which nothing is visible gets zero from the attention's values.
        """
        if self.style.pre_norm:
            attended = self._attend(self.attention_norm(queries), self.attention_norm(context), visible)
            hidden: Tensor = queries + self.dropout(attended)
            return hidden + cast(Tensor, self.dropout(self.mlp(self.mlp_norm(hidden))))
        hidden = self.attention_norm(queries + self.dropout(self._attend(queries, context, visible)))
        hidden = self.mlp_norm(hidden + self.dropout(self.mlp(hidden)))
        return hidden

    def _attend(self, queries: Tensor, context: Tensor, visible: Tensor) -> Tensor:
        # Softmax over nothing is NaN on some devices: let such a row look at position 0, and drop its result.
        sees = visible.any(dim=-1, keepdim=True)  # (B, L, 1)
        visible = torch.cat([visible[..., :1] | ~sees, visible[..., 1:]], dim=-1)
        attended = functional.scaled_dot_product_attention(
            self._heads(self.query(queries)),
            self._heads(self.key(context)),
            self._heads(self.value(context)),
            attn_mask=visible[:, None],  # (B, 1, L, S): the same for all heads
            dropout_p=self.style.attention_dropout if self.training else 0.0,
        )
        result: Tensor = self.output(attended.transpose(1, 2).flatten(2) * sees)  # (B, L, d)
        return result

    def _heads(self, hidden: Tensor) -> Tensor:
        """(B, L, d) → (B, heads, L, d / heads)"""
        batch, length, _ = hidden.shape
        return hidden.view(batch, length, self.style.num_heads, -1).transpose(1, 2)


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


class _Decoder(nn.Module):
    """What both decoders share: the positions they fall back to, and a pre-norm family's last LayerNorm."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        style = backbone.style
        self.positions = None if backbone.has_positions else DecoderPositions(backbone)
        self.final_norm = (
            nn.LayerNorm(style.hidden_size, style.layer_norm_eps, bias=style.norm_bias)
            if style.pre_norm
            else nn.Identity()
        )

    def _placed(self, embeddings: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """p (L, d) and e + p (B, L, d)."""
        if positions is None:
            if self.positions is None:
                raise ValueError(
                    "this backbone has a position table: pass backbone.position_embeddings(length)"
                )
            positions = self.positions(embeddings.shape[1])
        return positions, embeddings + positions


class EnhancedDecoder(_Decoder):
    """Eq. 4 to 7: queries H1 = h + p_i; keys and values H2 = [h, e_1 + p_1, …]; the residual goes to H1.

    Position 0 of H2 is h itself, without p_0 (Eq. 2 and 4).
    """

    def __init__(self, backbone: Backbone, embedding_norm: EmbeddingNorm = "none") -> None:
        super().__init__(backbone)
        if embedding_norm not in ("none", "context"):
            raise UserError(f"embedding_norm must be 'none' or 'context', not '{embedding_norm}'.")
        self.layer = DecoderLayer(backbone.style)
        # In a tuple, so that the backbone's module is used here but not registered, counted or saved twice.
        self._context_norm = (backbone.embedding_norm,) if embedding_norm == "context" else ()

    def forward(
        self, sentence: Tensor, embeddings: Tensor, positions: Tensor | None, visible: Tensor
    ) -> Tensor:
        """sentence (B, d), embeddings e (B, L, d), positions p (L, d), visible (B, L, L) bool → (B, L, d).

        visible[b, i, j] is True where row i may attend to position j. `positions=None` takes the decoder's
        own table, which it has where the backbone has none.
        """
        positions, context = self._placed(embeddings, positions)
        for norm in self._context_norm:
            context = norm(context)
        context = torch.cat([sentence[:, None], context[:, 1:]], dim=1)  # H2
        queries = sentence[:, None] + positions  # H1
        return cast(Tensor, self.final_norm(self.layer(queries, context, visible)))


class BasicDecoder(_Decoder):
    """Eq. 2 and 3: self-attention over [h, e_1 + p_1, …] of the heavily masked passage, 1 to 3 layers."""

    def __init__(self, backbone: Backbone, layers: int = 1) -> None:
        super().__init__(backbone)
        if not 1 <= layers <= 3:
            raise UserError(f"the basic decoder has 1 to 3 layers, not {layers}.")
        self.layers = nn.ModuleList(DecoderLayer(backbone.style) for _ in range(layers))

    def forward(
        self, sentence: Tensor, embeddings: Tensor, positions: Tensor | None, attention_mask: Tensor
    ) -> Tensor:
        """sentence (B, d), embeddings of the masked input (B, L, d), attention_mask (B, L) → (B, L, d)."""
        _, hidden = self._placed(embeddings, positions)
        hidden = torch.cat([sentence[:, None], hidden[:, 1:]], dim=1)
        visible = attention_mask.bool()[:, None]  # (B, 1, L)
        for layer in self.layers:
            hidden = layer(hidden, hidden, visible)
        return cast(Tensor, self.final_norm(hidden))


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
