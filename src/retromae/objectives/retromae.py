"""RetroMAE: a full encoder, a one-layer decoder, and one vector between them (Xiao et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from retromae.core.config import setting
from retromae.core.draws import Stream, at_pairs, at_positions, below, below_limit, stream_keys
from retromae.core.errors import UserError
from retromae.models import flops
from retromae.models.backbone import Backbone
from retromae.models.compiled import compiled
from retromae.models.decoders import BasicDecoder, EnhancedDecoder
from retromae.objectives.autoencoder import AutoEncoder
from retromae.objectives.base import Batch, Drawn, Encoded, Labelled, Vocabulary, count
from retromae.objectives.one_pass import Reads


@dataclass
class RetroMAEConfig:
    encoder_mlm_probability: float = setting(0.3, "share of the words hidden from the encoder")
    decoder_mlm_probability: float = setting(0.5, "share of the other tokens hidden from a decoder row")
    decoder: Literal["enhanced", "basic"] = setting(
        "enhanced",
        "enhanced: every token is rebuilt from its own context (Eq. 4-7); basic: masked tokens (Eq. 2-3)",
    )
    decoder_layers: int = setting(
        1, "layers of the basic decoder (1 to 3); the enhanced one has one by design"
    )
    decoder_embedding_norm: Literal["none", "context"] = setting(
        "none",
        "none: Eq. 4 as written; context: LayerNorm on the decoder's keys and values, as the released code",
    )
    decoded_share: float = setting(
        1.0,
        "share of its tokens that the decoder is asked for in a step (1: all, as published); the others cost nothing, "
        "so the same work covers more text",
    )
    hide_schedule: float = setting(
        0.0,
        "share of the training during which the hidden part falls from everything to decoder_mlm_probability; "
        "0.3 helps [CLS] to carry something early on, above all from scratch",
    )


class RetroMAE(AutoEncoder):
    """The sentence vector of a masked passage, and a weak decoder that must rebuild the passage from it.

        h      = Φ_enc(X̃_enc)[CLS]                                   30 % of the words masked
        H1     = [h + p_0, …, h + p_N],  H2 = [h, e_1 + p_1, …]       Eq. 4
        A      = attention(H1 W^Q, H2 W^K, H2 W^V, M)                 Eq. 5, M_ij visible for a random sample of
                                                                      j ≠ i drawn for every row i, and j = 0
        L      = CE of the masked words (encoder) + CE of every ordinary word (decoder, Eq. 6)

    The decoder shares word and position embeddings and the vocabulary head with the encoder; its layer is fresh.
    Rows: any text. Parts: `encoder`, `decoder`.
    """

    Config = RetroMAEConfig
    paper = "RetroMAE: Pre-Training Retrieval-oriented Language Models Via Masked Auto-Encoder (2022)"
    settings: RetroMAEConfig
    reads: ClassVar[Reads] = "masked"

    def __init__(
        self, backbone: Backbone, settings: RetroMAEConfig, vocabulary: Vocabulary, seed: int = 0
    ) -> None:
        super().__init__(backbone, settings, vocabulary, seed)
        self.enhanced = settings.decoder == "enhanced"
        if self.enhanced and settings.decoder_layers != 1:
            raise UserError(
                f"decoder_layers is {settings.decoder_layers}, but enhanced decoding has one layer by design; "
                "set decoder: basic for more."
            )
        if not 0 < settings.decoded_share <= 1:
            raise UserError(f"decoded_share is {settings.decoded_share}, but must be above 0, and 1 at most.")
        self.decoder: EnhancedDecoder | BasicDecoder
        if self.enhanced:
            self.decoder = EnhancedDecoder(backbone, embedding_norm=settings.decoder_embedding_norm)
        else:
            self.decoder = BasicDecoder(backbone, settings.decoder_layers)

    def heads(self) -> dict[str, nn.Module]:
        return {"decoder": self.decoder}

    def draw(self, batch: Batch) -> Drawn:
        token_ids, labelled = self.mask_words(batch, self.settings.encoder_mlm_probability)
        tensors = {"token_ids": token_ids, "labelled": labelled}
        if self.enhanced:
            asked = self.is_ordinary(batch)
        else:
            share = self.hidden_share(batch.progress)
            tensors["decoder_ids"], asked = self.mask_words(batch, share, decoder=True)
        if self.settings.decoded_share < 1:
            (keys,) = stream_keys(self.row_keys(batch), Stream.DECODER_ASKED)
            asked = asked & below(at_positions(keys, asked.shape[1]), self.settings.decoded_share)
        tensors["decoder_labelled"] = asked
        return Drawn(tensors, {"encoder": count(labelled), "decoder": count(asked)})

    def encode(self, batch: Batch, drawn: Drawn) -> Encoded:
        hidden = self.read(batch, drawn)
        return Encoded(
            hidden,
            [
                Labelled.at(drawn.places("labelled"), "encoder", hidden, batch.token_ids),
                self.rebuild(hidden[:, 0], batch, drawn),
            ],
        )

    def rebuild(self, sentence: Tensor, batch: Batch, drawn: Drawn) -> Labelled:
        """Decode the passage from its sentence vectors (B, d)."""
        asked = drawn.places("decoder_labelled")
        positions = self.backbone.position_embeddings(batch.token_ids.shape[1])
        if isinstance(self.decoder, EnhancedDecoder):
            embeddings = self.backbone.token_embeddings(batch.token_ids)
            decoded = self.decoder(sentence, embeddings, positions, self.visible(batch), asked)
        else:
            embeddings = self.backbone.token_embeddings(drawn.tensors["decoder_ids"])
            decoded = self.decoder(sentence, embeddings, positions, batch.mask, asked)
        return Labelled.taken(asked, "decoder", decoded, batch.token_ids)

    @torch.no_grad()
    def visible(self, batch: Batch) -> Tensor:
        """(B, L, L) bool, Eq. 7: which positions j the decoder's row i may attend to."""
        (keys,) = stream_keys(self.row_keys(batch), Stream.DECODER_VISIBLE)
        # As a tensor, so that a schedule makes no new code of it.
        limit = torch.full((), below_limit(1.0 - self.hidden_share(batch.progress)), device=keys.device)
        function = compiled(visible_pairs) if self.compiled else visible_pairs
        return function(keys, batch.attention_mask, limit)

    def hidden_share(self, progress: float) -> float:
        """How much is hidden from a decoder row at this point of the training."""
        target, schedule = self.settings.decoder_mlm_probability, self.settings.hide_schedule
        if schedule <= 0.0 or progress >= schedule:
            return target
        return 1.0 - (1.0 - target) * progress / schedule

    def flops(self, rows: int, length: int) -> float:
        settings, tokens = self.settings, flops.ordinary_tokens(rows, length)
        # While the schedule lasts, the hidden share is on average half way to everything.
        hidden = settings.decoder_mlm_probability
        hidden += (1.0 - hidden) * settings.hide_schedule / 2
        rebuilt = (1.0 if self.enhanced else hidden) * settings.decoded_share * tokens
        return flops.TRAINING * (
            flops.encoder(self.backbone, rows, length, self.needed_count(rows, length))
            + flops.embeddings(self.backbone, rows, length)
            + flops.layers(self.backbone.style, settings.decoder_layers, rows, length, asked=rebuilt)
            + flops.vocabulary(self.backbone, settings.encoder_mlm_probability * tokens + rebuilt)
        )


def visible_pairs(keys: Tensor, attention_mask: Tensor, limit: Tensor) -> Tensor:
    """(B) keys, (B, L) → (B, L, L): a token sees those whose draw is below the limit, never itself, no padding, and
    all but the first see the sentence vector at position 0."""
    length = attention_mask.shape[1]
    i = torch.arange(length, device=keys.device)[:, None]
    j = torch.arange(length, device=keys.device)
    drawn = at_pairs(keys, length).to(torch.int64) < limit
    return drawn & attention_mask.bool()[:, None, :] & (i != j) | (i > 0) & (j == 0)
