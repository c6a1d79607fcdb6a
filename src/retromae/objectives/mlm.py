"""Masked language modelling: the control. Same rows, same steps, no sentence embedding is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from retromae.core.config import setting
from retromae.objectives.base import Batch, Drawn, Encoded, Labelled, OnePass, count


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

    def draw(self, batch: Batch) -> Drawn:
        token_ids, labelled = self.mask_words(batch, self.settings.encoder_mlm_probability)
        return Drawn({"token_ids": token_ids, "labelled": labelled}, {"encoder": count(labelled)})

    def forward(
        self, batch: Batch, drawn: Drawn | None = None, totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        drawn = drawn or self.draw(batch)
        loss, parts = self.vocabulary_losses(self.encode(batch, drawn).parts, totals or drawn.counts)
        return {"loss": loss, **parts}

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        return self.vocabulary_measures(self.encode(batch, self.draw(batch)).parts)

    def encode(self, batch: Batch, drawn: Drawn) -> Encoded:
        hidden = self.backbone.encode(drawn.tensors["token_ids"], batch.attention_mask)
        labelled = drawn.tensors["labelled"]
        return Encoded(hidden, [Labelled("encoder", hidden[labelled], batch.token_ids[labelled])])
