"""Decoders and heads: they rebuild a passage from its [CLS] vector and little else.

All are built like the backbone's own layers (`Backbone.style`) and start from fresh weights; they share the
backbone's word embeddings, its positions and its vocabulary head, which the objective passes in or applies.

`EnhancedDecoder`  one layer, two streams (RetroMAE, Eq. 4 to 7): every position has its own context.
`BasicDecoder`     one to three layers of plain self-attention (Eq. 2 and 3).
`CondenserHead`    self-attention over the late [CLS] and the early states of the tokens.
`CausalDecoder`    left to right, with cross-attention to the sentence vector (SEED, TSDAE).

Departure from the released code, in one place: there the keys and values of the enhanced decoder go through
the backbone's embedding LayerNorm. Eq. 4 has none and neither do we, unless `embedding_norm="context"`.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.models.layers import DecoderLayer, DecoderPositions, SentenceDecoderLayer, final_norm

EmbeddingNorm = Literal["none", "context"]


class _Decoder(nn.Module):
    """What decoders share: the positions they fall back to, and a pre-norm family's last LayerNorm."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.positions = None if backbone.has_positions else DecoderPositions(backbone)
        self.final_norm = final_norm(backbone.style)

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
        self,
        sentence: Tensor,
        embeddings: Tensor,
        positions: Tensor | None,
        visible: Tensor,
        asked: Tensor | None = None,
    ) -> Tensor:
        """sentence (B, d), embeddings e (B, L, d), positions p (L, d), visible (B, L, L) bool → (B, L, d), or (n, d)
        at the places that are `asked` for.

        visible[b, i, j] is True where row i may attend to position j. `positions=None` takes the decoder's
        own table, which it has where the backbone has none.
        """
        positions, context = self._placed(embeddings, positions)
        for norm in self._context_norm:
            context = norm(context)
        context = torch.cat([sentence[:, None], context[:, 1:]], dim=1)  # H2
        queries = sentence[:, None] + positions  # H1
        return cast(Tensor, self.final_norm(self.layer(queries, context, visible, asked)))


class BasicDecoder(_Decoder):
    """Eq. 2 and 3: self-attention over [h, e_1 + p_1, …] of the heavily masked passage, 1 to 3 layers."""

    def __init__(self, backbone: Backbone, layers: int = 1) -> None:
        super().__init__(backbone)
        if not 1 <= layers <= 3:
            raise UserError(f"the basic decoder has 1 to 3 layers, not {layers}.")
        self.layers = nn.ModuleList(DecoderLayer(backbone.style) for _ in range(layers))

    def forward(
        self,
        sentence: Tensor,
        embeddings: Tensor,
        positions: Tensor | None,
        attention_mask: Tensor | None,
        asked: Tensor | None = None,
    ) -> Tensor:
        """sentence (B, d), embeddings of the masked input (B, L, d), attention_mask (B, L), None without padding →
        (B, L, d), or (n, d) at the places that are `asked` for."""
        _, hidden = self._placed(embeddings, positions)
        hidden = torch.cat([sentence[:, None], hidden[:, 1:]], dim=1)
        return cast(Tensor, self.final_norm(_through(self.layers, hidden, attention_mask, asked)))


class CondenserHead(nn.Module):
    """Condenser's head: self-attention over [h_late, e_1, e_2, …], e being the early states of the tokens.

    It has no positions: the early states know theirs. In a pre-norm family the early states come as the backbone's
    next layer would read them, without LayerNorm, and h as people will use it, past the last one; the head's layers
    normalise both before they read them, and its own last LayerNorm follows.
    """

    def __init__(self, backbone: Backbone, layers: int = 2) -> None:
        super().__init__()
        if layers < 1:
            raise UserError(f"the Condenser head needs at least one layer, not {layers}.")
        self.layers = nn.ModuleList(DecoderLayer(backbone.style) for _ in range(layers))
        self.final_norm = final_norm(backbone.style)

    def forward(
        self, sentence: Tensor, early: Tensor, attention_mask: Tensor | None, asked: Tensor | None = None
    ) -> Tensor:
        """sentence (B, d), early (B, L, d), of which position 0 is not read, attention_mask (B, L), None without
        padding → (B, L, d), or (n, d) at the places that are `asked` for."""
        hidden = torch.cat([sentence[:, None], early[:, 1:]], dim=1)
        return cast(Tensor, self.final_norm(_through(self.layers, hidden, attention_mask, asked)))


class CausalDecoder(_Decoder):
    """Left to right: what it gives at position t has read the tokens before t and is to predict token t.

    Every layer has cross-attention to the sentence vector, which is all that is known of the rest of the passage.
    With a `span` the decoder is weak: a position reads no more than `span` tokens in each layer.
    """

    def __init__(self, backbone: Backbone, layers: int, span: int | None = None) -> None:
        super().__init__(backbone)
        if layers < 1:
            raise UserError(f"the decoder needs at least one layer, not {layers}.")
        if span is not None and span < 1:
            raise UserError(f"the decoder's attention span is at least one token, not {span}.")
        self.span = span
        self.layers = nn.ModuleList(SentenceDecoderLayer(backbone.style) for _ in range(layers))

    def forward(self, sentence: Tensor, embeddings: Tensor, positions: Tensor | None) -> Tensor:
        """sentence (B, d), embeddings of the passage (B, L, d), positions (L, d) or None → (B, L, d).

        Position 0, before which there is nothing, predicts nothing. Padding is behind the tokens: none reads it.
        """
        _, hidden = self._placed(embeddings, positions)
        length = hidden.shape[1]
        visible = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()
        if self.span is not None:
            visible = visible.triu(1 - self.span)
        for layer in self.layers:
            hidden = cast(SentenceDecoderLayer, layer).decode(sentence, hidden, visible[None])
        return cast(Tensor, self.final_norm(hidden)).roll(1, dims=1)


def _through(
    layers: nn.ModuleList, hidden: Tensor, attention_mask: Tensor | None, asked: Tensor | None
) -> Tensor:
    """Self-attention in every layer; the last one only where it is asked for."""
    visible = None if attention_mask is None else attention_mask.bool()[:, None]  # (B, 1, L)
    for number, layer in enumerate(layers, start=1):
        hidden = layer(hidden, hidden, visible, asked if number == len(layers) else None)
    return hidden
