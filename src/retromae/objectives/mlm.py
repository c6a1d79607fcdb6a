"""Masked language modelling: the control. Same rows, same steps, no sentence embedding is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from retromae.core.config import setting
from retromae.models import flops
from retromae.objectives.base import Batch, Drawn, Encoded, Labelled, count
from retromae.objectives.one_pass import OnePass


@dataclass
class MLMConfig:
    encoder_mlm_probability: float = setting(0.15, "share of the words that the encoder must guess")


class MaskedLanguageModel(OnePass):
    """Cross-entropy of the masked tokens (Devlin et al., 2019), whole words at a time.

        L = mean over masked x_i of CE(x_i | Φ_enc(X̃))

    Rows: any text. Parts: `encoder`.
    """

    Config = MLMConfig
    paper = "BERT: Pre-training of Deep Bidirectional Transformers (2019)"
    settings: MLMConfig
    reads = "masked"

    def draw(self, batch: Batch) -> Drawn:
        token_ids, labelled = self.mask_words(batch, self.settings.encoder_mlm_probability)
        return Drawn({"token_ids": token_ids, "labelled": labelled}, {"encoder": count(labelled)})

    def encode(self, batch: Batch, drawn: Drawn) -> Encoded:
        hidden = self.read(batch, drawn)
        labelled = drawn.places("labelled")
        return Encoded(hidden, [Labelled.at(labelled, "encoder", hidden, batch.token_ids)])

    def flops(self, rows: int, length: int) -> float:
        labels = self.settings.encoder_mlm_probability * flops.ordinary_tokens(rows, length)
        return flops.TRAINING * (
            flops.encoder(self.backbone, rows, length, self.needed_count(rows, length))
            + flops.vocabulary(self.backbone, labels)
        )
