"""SEED: a decoder too weak to write the passage without the sentence vector (Lu et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from retromae.core.config import setting
from retromae.models import flops
from retromae.models.backbone import Backbone
from retromae.models.decoders import CausalDecoder
from retromae.objectives.autoencoder import LeftToRight
from retromae.objectives.base import Batch, Drawn, Encoded, Labelled, Vocabulary, count


@dataclass
class SEEDConfig:
    encoder_mlm_probability: float = setting(0.15, "share of the words hidden from the encoder")
    decoder_layers: int = setting(3, "layers of the decoder")
    decoder_span: int = setting(2, "tokens before a position that a layer of the decoder reads there")


class SEED(LeftToRight):
    """The passage written word by word from its sentence vector and the last k words.

        h = Φ_enc(X̃)[CLS]                                          15 % of the words masked
        L = mean over masked x_i of CE(x_i | Φ_enc(X̃))  +  mean over t of −log P(x_t | x_{t−k}, …, x_{t−1}, h)

    The decoder has three fresh layers with cross-attention to h (as the released code has them) and k = 2; its layers
    read the last k tokens each. Word embeddings, positions and vocabulary head are shared with the encoder.
    Rows: any text. Parts: `encoder`, `decoder`.
    """

    Config = SEEDConfig
    paper = "Less is More: Pre-train a Strong Text Encoder for Dense Retrieval Using a Weak Decoder (2021)"
    settings: SEEDConfig
    reads = "masked"

    def __init__(
        self, backbone: Backbone, settings: SEEDConfig, vocabulary: Vocabulary, seed: int = 0
    ) -> None:
        super().__init__(backbone, settings, vocabulary, seed)
        self.decoder = CausalDecoder(backbone, settings.decoder_layers, settings.decoder_span)

    def draw(self, batch: Batch) -> Drawn:
        token_ids, labelled = self.mask_words(batch, self.settings.encoder_mlm_probability)
        ordinary = self.is_ordinary(batch)
        counts = {"encoder": count(labelled), "decoder": count(ordinary)}
        return Drawn({"token_ids": token_ids, "labelled": labelled, "ordinary": ordinary}, counts)

    def encode(self, batch: Batch, drawn: Drawn) -> Encoded:
        hidden = self.read(batch, drawn)
        labelled = drawn.places("labelled")
        masked = Labelled.at(labelled, "encoder", hidden, batch.token_ids)
        return Encoded(hidden, [masked, self.rebuild(hidden[:, 0], batch, drawn)])

    def flops(self, rows: int, length: int) -> float:
        settings, tokens = self.settings, flops.ordinary_tokens(rows, length)
        return flops.TRAINING * (
            flops.encoder(self.backbone, rows, length, self.needed_count(rows, length))
            + flops.embeddings(self.backbone, rows, length)
            + flops.layers(self.backbone.style, settings.decoder_layers, rows, length, cross=True)
            + flops.vocabulary(self.backbone, (1.0 + settings.encoder_mlm_probability) * tokens)
        )
