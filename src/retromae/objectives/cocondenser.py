"""coCondenser: Condenser on two spans of a row, whose vectors must find each other (Gao and Callan, 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from retromae.core.config import setting
from retromae.core.draws import Stream, at_positions, stream_keys
from retromae.models import flops
from retromae.objectives import condenser
from retromae.objectives.base import Batch, Drawn, Encoded, count
from retromae.objectives.contrast import (
    Contrastive,
    full,
    keep_tokens,
    kept_width,
    nearest_is_own,
    row_ends,
    token_of_word,
)


@dataclass
class CoCondenserConfig(condenser.CondenserConfig):
    temperature: float = setting(1.0, "what dot products are divided by")
    contrast_weight: float = setting(1.0, "weight of the contrastive loss")


class CoCondenser(Contrastive, condenser.Condenser):
    """Two spans of a row are positives; the spans of all other rows of the step are negatives.

        s_i1, s_i2  the row's words before and after a cut, which leaves each of them at least a quarter
        h_ij        the late [CLS] of the masked span
        L           = L_Condenser over the spans
                      + mean over spans of −log [ exp⟨h_i1, h_i2⟩ / Σ_kl≠ij exp⟨h_ij, h_kl⟩ ]

    Where a row is cut is drawn anew in every epoch. Start from a Condenser, as the paper does.
    Rows: passages of several sentences. A row of one word has no second span and is not compared.
    Parts: `encoder`, `head`, `contrast`.
    """

    Config = CoCondenserConfig
    paper = "Unsupervised Corpus Aware Language Model Pre-training for Dense Passage Retrieval (2022)"
    settings: CoCondenserConfig

    def draw(self, batch: Batch) -> Drawn:
        masked, labelled = self.mask_words(batch, self.settings.encoder_mlm_probability)
        words = self.words(batch)
        number = words.amax(dim=1) + 1  # (B,) words of each row
        least = (number + 3) // 4
        (keys,) = stream_keys(self.row_keys(batch), Stream.CUT)
        choices = (number - 2 * least + 1).clamp(min=1)
        cut = least + at_positions(keys, 1)[:, 0].to(torch.int64).remainder(choices)
        compared = number > 1
        # (B, 2, L): the tokens of both spans, [CLS] and [SEP] in each.
        place = torch.arange(batch.token_ids.shape[1], device=words.device)
        before = place < torch.where(compared, token_of_word(words, cut), place.numel())[:, None]
        ends = row_ends(batch.attention_mask)
        kept = torch.stack([before | ends, ~before | ends]) & batch.attention_mask.bool()
        mask, original, token_ids, labels = keep_tokens(
            kept.flatten(0, 1),
            batch.token_ids.repeat(2, 1),
            masked.repeat(2, 1),
            labelled.repeat(2, 1),
        )
        labels &= mask.bool()
        total = count(labels)
        return Drawn(
            {
                "original": original,  # (2B, L'): all first spans, then all second ones
                "attention_mask": mask,
                "token_ids": token_ids,
                "labelled": labels,
                "compared": compared,  # (B,)
            },
            {"encoder": total, "head": total, "contrast": count(compared)},
        )

    def encode(self, batch: Batch, drawn: Drawn) -> Encoded:
        """One pass over all spans."""
        spans = Batch(
            drawn.tensors["original"],
            drawn.tensors["attention_mask"],
            batch.row_ids.repeat(2),
            batch.epochs.repeat(2),
            batch.progress,
        )
        return super().encode(spans, drawn)

    def vectors(self, batch: Batch, drawn: Drawn) -> Tensor:
        return self.pairs(self.read(batch, drawn), drawn)

    def pairs(self, hidden: Tensor, drawn: Drawn) -> Tensor:
        """(2B, L', d) → (n, 2, d): [CLS] of both spans of the compared rows."""
        return torch.stack(hidden[:, 0].chunk(2), dim=1).index_select(0, drawn.places("compared"))

    def contrast(self, vectors: Tensor) -> Tensor:
        if not len(vectors):
            return vectors.sum()
        with torch.autocast(vectors.device.type, enabled=False):
            spans = full(vectors).flatten(0, 1)  # (2N, d): a row's two spans beside each other
            scores = spans @ spans.t() / self.settings.temperature
            scores.fill_diagonal_(-torch.inf)  # a span is no candidate for itself
            partner = torch.arange(len(spans), device=spans.device) ^ 1
            both = F.cross_entropy(scores, partner, reduction="sum")
            return both / 2  # a row's loss is the mean of its spans'

    def forward(
        self, batch: Batch, drawn: Drawn | None = None, totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        drawn = drawn or self.draw(batch)
        encoded = self.encode(batch, drawn)
        contrast = self.contrast_loss(self.pairs(encoded.hidden, drawn), drawn, totals)
        loss, parts = self.vocabulary_losses(encoded.parts, totals or drawn.counts)
        loss = loss + self.settings.contrast_weight * contrast
        return {"loss": loss, **parts, "contrast": contrast.detach()}

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Also `contrast_accuracy`: how often a row's first span finds the second among those of its batch."""
        drawn = self.draw(batch)
        encoded = self.encode(batch, drawn)
        vectors = self.pairs(encoded.hidden, drawn)
        return {
            **self.vocabulary_measures(encoded.parts),
            **self.measure_vectors(vectors, drawn),
            "contrast_accuracy": (nearest_is_own(*vectors.unbind(dim=1)), drawn.counts["contrast"]),
        }

    def flops(self, rows: int, length: int) -> float:
        """Spans are padded to the longest of the batch, which is three quarters of its row."""
        longest = kept_width(2 + (3 * (length - 2)) // 4, length)
        labels = self.settings.encoder_mlm_probability * flops.ordinary_tokens(rows, length)
        return flops.TRAINING * (
            flops.encoder(self.backbone, 2 * rows, longest)
            + flops.layers(self.backbone.style, self.settings.head_layers, 2 * rows, longest, asked=labels)
            + flops.vocabulary(self.backbone, 2 * labels)
            + 2 * (2 * rows) ** 2 * self.backbone.hidden_size
        )
