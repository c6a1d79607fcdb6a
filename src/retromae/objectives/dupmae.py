"""RetroMAE-2 / DupMAE: the ordinary tokens learn to represent the passage too (Xiao et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from retromae.core.config import setting
from retromae.models import flops
from retromae.models.bag_of_words import bag_of_words, max_pooled_logits
from retromae.objectives import retromae
from retromae.objectives.base import Batch, Drawn, Encoded, count


@dataclass
class DupMAEConfig(retromae.RetroMAEConfig):
    bow_weight: float = setting(0.1, "weight of the bag-of-words loss")
    bow_per_token: bool = setting(
        False, "divide the bag-of-words loss by tokens, not distinct words, as the released code does"
    )


class DupMAE(retromae.RetroMAE):
    """One encoder pass, three losses: RetroMAE's two, and the bag of words from the ordinary tokens.

        μ = max over ordinary tokens t of (head(h_t))                 (V,), element-wise
        L = L_RetroMAE + 0.1 · mean over distinct words x of −log softmax(μ)[x]

    Rows: any text. Parts: `encoder`, `decoder`, `bow`.
    """

    Config = DupMAEConfig
    paper = (
        "RetroMAE-2: Duplex Masked Auto-Encoder For Pre-Training Retrieval-Oriented Language Models (2023)"
    )
    settings: DupMAEConfig
    reads = "all"  # the bag of words is read from every ordinary token

    def draw(self, batch: Batch) -> Drawn:
        drawn = super().draw(batch)
        return Drawn(drawn.tensors, {**drawn.counts, "bow": count(self.is_ordinary(batch).any(dim=1))})

    def forward(
        self, batch: Batch, drawn: Drawn | None = None, totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        drawn = drawn or self.draw(batch)
        totals = totals or drawn.counts
        encoded = self.encode(batch, drawn)
        loss, parts = self.vocabulary_losses(encoded.parts, totals)
        bow = self.bag_of_words(encoded.hidden, batch).sum() / totals["bow"].clamp(min=1)
        return {"loss": loss + self.settings.bow_weight * bow, **parts, "bow": bow.detach()}

    def sums(self, batch: Batch, encoded: Encoded) -> dict[str, Tensor]:
        return {**super().sums(batch, encoded), "bow": self.bag_of_words(encoded.hidden, batch).sum()}

    def weight(self, part: str) -> float:
        return self.settings.bow_weight if part == "bow" else super().weight(part)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # its backward is its own
    def bag_of_words(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(B,) loss of each passage; 0 for a passage without an ordinary token."""
        counted = self.is_ordinary(batch)
        empty = ~counted.any(dim=1)
        counted[:, 0] |= empty  # something to take the maximum of; it weighs nothing
        pooled = max_pooled_logits(
            self.backbone.head_transform(hidden),
            self.backbone.head_weight,
            self.backbone.head_bias,
            counted,
            fused=self.compiled,
        )
        losses = bag_of_words(pooled, batch.token_ids, counted, per_token=self.settings.bow_per_token)
        return losses.masked_fill(empty, 0.0)

    def measure_encoded(
        self, batch: Batch, drawn: Drawn, encoded: Encoded
    ) -> dict[str, tuple[Tensor, Tensor]]:
        measures = super().measure_encoded(batch, drawn, encoded)
        measures["bow_loss"] = (self.bag_of_words(encoded.hidden, batch).sum(), drawn.counts["bow"])
        return measures

    def flops(self, rows: int, length: int) -> float:
        return super().flops(rows, length) + flops.bag_of_words_step(self.backbone, rows, length)
