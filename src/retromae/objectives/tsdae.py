"""TSDAE: most tokens are deleted, and a decoder writes the passage from the sentence vector (Wang et al., 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from retromae.core.config import setting
from retromae.core.draws import Stream, at_positions, stream_keys, uniform
from retromae.core.errors import UserError
from retromae.models import flops
from retromae.models.backbone import Backbone
from retromae.models.decoders import CausalDecoder
from retromae.objectives.autoencoder import LeftToRight
from retromae.objectives.base import Batch, Drawn, Encoded, Vocabulary, count


@dataclass
class TSDAEConfig:
    deletion_ratio: float = setting(0.6, "share of the tokens that are deleted from the encoder's input")
    decoder_layers: int | None = setting(None, "layers of the decoder; as many as the encoder if left out")


class TSDAE(LeftToRight):
    """A passage of which 60 % of the tokens are gone, and a full decoder that must write it whole.

        h = Φ_enc(X̃)[CLS]                                           X̃: X without the deleted tokens
        L = mean over t of −log P(x_t | x_1, …, x_{t−1}, h)

    The decoder reads all tokens before t and, by cross-attention in every layer, h. Its layers are fresh: the paper
    ties them to the encoder's, which only families whose layers can also read from left to right could do. Word
    embeddings, positions and vocabulary head are shared with the encoder.
    The number of deleted tokens is exact, not a coin per token, so that the encoder's input is short for every row.
    Rows: any text. Parts: `decoder`.
    """

    Config = TSDAEConfig
    paper = (
        "TSDAE: Using Transformer-based Sequential Denoising Auto-Encoder for Unsupervised Sentence Embedding "
        "Learning (2021)"
    )
    settings: TSDAEConfig
    reads = "first"

    def __init__(
        self, backbone: Backbone, settings: TSDAEConfig, vocabulary: Vocabulary, seed: int = 0
    ) -> None:
        super().__init__(backbone, settings, vocabulary, seed)
        if not 0.0 <= settings.deletion_ratio < 1.0:
            raise UserError(
                f"deletion_ratio is {settings.deletion_ratio}; at least one token must stay, so choose 0 or more "
                "and less than 1."
            )
        self.kept_share = 1.0 - settings.deletion_ratio
        layers = settings.decoder_layers
        self.decoder = CausalDecoder(backbone, backbone.num_layers if layers is None else layers)

    def draw(self, batch: Batch) -> Drawn:
        token_ids, attention_mask = self.delete_tokens(batch)
        ordinary = self.is_ordinary(batch)
        tensors = {"token_ids": token_ids, "attention_mask": attention_mask, "ordinary": ordinary}
        return Drawn(tensors, {"decoder": count(ordinary)})

    def delete_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(token ids, attention mask), both (B, kept_length(L)): the rows without their deleted tokens, moved together.

        [CLS] and [SEP] stay, and of N tokens between them floor(share·N + u), u uniform in [0, 1), one at least.
        """
        length = batch.token_ids.shape[1]
        index = torch.arange(length, device=batch.token_ids.device)
        last = batch.attention_mask.sum(dim=1, keepdim=True) - 1  # (B, 1), where [SEP] is
        which, counts = at_positions(
            stream_keys(self.row_keys(batch), Stream.ENCODER_WORDS, Stream.ENCODER_COUNT).flatten(), length
        ).view(2, -1, length)
        inner = (last - 1).clamp(min=0)  # (B, 1) tokens between [CLS] and [SEP]
        fraction = uniform(counts[:, :1]).to(torch.float64)
        kept = (inner * self.kept_share + fraction).floor().to(torch.int64).clamp(min=1).minimum(inner)

        # Positions in a random order, [CLS] and [SEP] first, padding last; the first ones, sorted again, are kept.
        order = (which.to(torch.int64) << 16) | index
        lowest, highest = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
        order = order.masked_fill((index == 0) | (index == last), lowest).masked_fill(index > last, highest)
        chosen = order.argsort(dim=1, stable=True)[:, : self.kept_length(length)]
        stays = index[: chosen.shape[1]] < kept + 1 + (last > 0)
        positions = chosen.masked_fill(~stays, length).sort(dim=1).values
        attention_mask = (positions < length) & (last >= 0)
        token_ids = batch.token_ids.gather(1, positions.clamp(max=length - 1))
        return token_ids, attention_mask.to(batch.attention_mask.dtype)

    def kept_length(self, length: int) -> int:
        """How many tokens are left at most of a row of `length`: known without looking at the rows."""
        return min(length, 2 + math.floor(self.kept_share * max(length - 2, 0)) + 1)

    def encode(self, batch: Batch, drawn: Drawn) -> Encoded:
        hidden = self.read(batch, drawn)
        return Encoded(hidden, [self.rebuild(hidden[:, 0], batch, drawn)])

    def flops(self, rows: int, length: int) -> float:
        return flops.TRAINING * (
            flops.encoder(self.backbone, rows, self.kept_length(length), self.needed_count(rows, length))
            + flops.embeddings(self.backbone, rows, length)
            + flops.layers(self.backbone.style, len(self.decoder.layers), rows, length, cross=True)
            + flops.vocabulary(self.backbone, flops.ordinary_tokens(rows, length))
        )
