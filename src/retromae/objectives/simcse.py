"""SimCSE: the same text twice through the encoder, with two draws of dropout (Gao, Yao and Chen, 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retromae.core.config import setting
from retromae.models import flops
from retromae.models.backbone import Backbone
from retromae.objectives.base import Batch, Drawn, Labelled, Vocabulary, count
from retromae.objectives.contrast import Contrastive, Projection, freeze_vocabulary_head, info_nce


@dataclass
class SimCSEConfig:
    temperature: float = setting(0.05, "what cosines are divided by")
    mlm_weight: float = setting(
        0.0, "weight of masked language modelling beside it; 0: none (published with 0.1)"
    )
    encoder_mlm_probability: float = setting(
        0.15, "share of the words that the encoder must guess, where mlm_weight is above 0"
    )


class SimCSE(Contrastive):
    """A row is its own positive: dropout is the only difference between its two vectors. The others are negatives.

        z, z' = tanh(W h + b), tanh(W h' + b)      h, h' = [CLS] of the same row under two draws of dropout
        L     = mean over rows i of −log [ exp(cos(z_i, z'_i)/τ) / Σ_j exp(cos(z_i, z'_j)/τ) ]   (+ λ · MLM)

    W and b are fresh, and left behind after training: h is the sentence vector. Without dropout z' = z, so the loss
    on held-out rows is that of telling a row from the others of its batch.
    Rows: any text. Parts: `contrast`; `encoder` where λ > 0.
    """

    Config = SimCSEConfig
    paper = "SimCSE: Simple Contrastive Learning of Sentence Embeddings (2021)"
    needs_dropout = True
    settings: SimCSEConfig

    def __init__(
        self, backbone: Backbone, settings: SimCSEConfig, vocabulary: Vocabulary, seed: int = 0
    ) -> None:
        super().__init__(backbone, settings, vocabulary, seed)
        self.projection = Projection(backbone)
        self.guesses_words = settings.mlm_weight > 0
        if not self.guesses_words:
            freeze_vocabulary_head(backbone)

    def heads(self) -> dict[str, nn.Module]:
        return {"projection": self.projection}

    def draw(self, batch: Batch) -> Drawn:
        compared = self.is_ordinary(batch).any(dim=1)
        drawn = Drawn({"compared": compared}, {"contrast": count(compared)})
        if self.guesses_words:
            token_ids, labelled = self.mask_words(batch, self.settings.encoder_mlm_probability)
            drawn.tensors.update(token_ids=token_ids, labelled=labelled)
            drawn.counts["encoder"] = count(labelled)
        return drawn

    def vectors(self, batch: Batch, drawn: Drawn) -> Tensor:
        return self.projected(self.views(batch), drawn)

    def views(self, batch: Batch) -> Tensor:
        """(2, B, d): [CLS] of every row under two draws of dropout."""
        mask = None if batch.mask is None else batch.mask.repeat(2, 1)
        first = self.backbone.encode_first(batch.token_ids.repeat(2, 1), mask)
        return torch.stack(first.chunk(2))

    def projected(self, views: Tensor, drawn: Drawn) -> Tensor:
        """(2, B, d) → (n, 2, d), the compared rows' only."""
        vectors: Tensor = self.projection(views)
        return vectors.transpose(0, 1).index_select(0, drawn.places("compared"))

    def contrast(self, vectors: Tensor) -> Tensor:
        first, second = F.normalize(vectors, dim=-1).unbind(dim=1)
        return info_nce(first, second, self.settings.temperature)

    def forward(
        self, batch: Batch, drawn: Drawn | None = None, totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        drawn = drawn or self.draw(batch)
        output = super().forward(batch, drawn, totals)
        if not self.guesses_words:
            return output
        loss, parts = self.vocabulary_losses([self.guessed(batch, drawn)], totals or drawn.counts)
        return {**output, **parts, "loss": output["loss"] + self.settings.mlm_weight * loss}

    def guessed(self, batch: Batch, drawn: Drawn) -> Labelled:
        """The masked words, from a pass of their own."""
        labelled = drawn.places("labelled")
        hidden = self.backbone.encode(drawn.tensors["token_ids"], batch.mask, needed=labelled)
        return Labelled.at(labelled, "encoder", hidden, batch.token_ids)

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        measures = super().measure(batch)
        if self.guesses_words:
            measures |= self.vocabulary_measures([self.guessed(batch, self.draw(batch))])
        return measures

    def flops(self, rows: int, length: int) -> float:
        size = self.backbone.hidden_size
        views = flops.encoder(self.backbone, 2 * rows, length, 2 * rows)
        comparing = 2 * 2 * rows * size * size + 2 * rows * rows * size  # the projection, and all cosines
        total = views + comparing
        if self.guesses_words:
            labels = self.settings.encoder_mlm_probability * flops.ordinary_tokens(rows, length)
            total += flops.encoder(self.backbone, rows, length, labels)
            total += flops.vocabulary(self.backbone, labels)
        return flops.TRAINING * total
