"""The objectives whose losses all come out of one encoder pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from retromae.models.flops import ordinary_tokens
from retromae.objectives.base import Batch, Drawn, Encoded, Objective

Reads = Literal["all", "masked", "first"]


class OnePass(Objective):
    """An objective whose losses all come out of one encoder pass, which others may therefore share: `unified`.

    A subclass gives `encode`. Where every part is `Labelled`, nothing else; further parts come in by `forward`,
    `sums` and `weight`.
    """

    reads: ClassVar[Reads] = "all"
    """Whose last states are read: every position's, [CLS] and the masked words', [CLS] alone. The encoder may leave out
    the others, so a subclass of an objective that says so and reads more must say so itself."""

    @abstractmethod
    def encode(self, batch: Batch, drawn: Drawn) -> Encoded:
        """One pass over what `read` reads, the encoder before anything else, and what it must predict."""

    def read(self, batch: Batch, drawn: Drawn) -> Tensor:
        """(B, L, d): the encoder over what was drawn for it, and no more.

        That is `token_ids` (B, L) and, where other positions than the batch's hold tokens, `attention_mask` (B, L).
        """
        attention_mask = drawn.tensors.get("attention_mask", batch.mask)
        token_ids = drawn.tensors["token_ids"]
        if self.reads == "all":
            return self.backbone.encode(token_ids, attention_mask)
        if "read" not in drawn.tensors:
            drawn.tensors["read"] = self._flags(drawn)
        return self.backbone.encode(token_ids, attention_mask, needed=drawn.places("read"))

    def draw_ahead(self, batch: Batch) -> Drawn:
        drawn = super().draw_ahead(batch)
        if self.reads != "all":
            drawn.tensors["read"] = self._flags(drawn)
            drawn.places("read")
        return drawn

    def _flags(self, drawn: Drawn) -> Tensor:
        """(B, L) bool: the positions whose last states are read."""
        flags = torch.zeros_like(drawn.tensors["token_ids"], dtype=torch.bool)
        if self.reads == "masked":
            flags |= drawn.tensors["labelled"]
        flags[:, 0] = True
        return flags

    def needed_count(self, rows: int, length: int) -> float | None:
        """How many positions of full rows are expected to be read; None: all of them. For `flops`."""
        if self.reads == "all":
            return None
        share = self.settings.encoder_mlm_probability if self.reads == "masked" else 0.0
        return rows + share * ordinary_tokens(rows, length)

    def forward(
        self, batch: Batch, drawn: Drawn | None = None, totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        drawn = drawn or self.draw(batch)
        loss, parts = self.vocabulary_losses(self.encode(batch, drawn).parts, totals or drawn.counts)
        return {"loss": loss, **parts}

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        drawn = self.draw(batch)
        return self.measure_encoded(batch, drawn, self.encode(batch, drawn))

    def measure_encoded(
        self, batch: Batch, drawn: Drawn, encoded: Encoded
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Losses and accuracies."""
        return self.vocabulary_measures(encoded.parts)

    def sums(self, batch: Batch, encoded: Encoded) -> dict[str, Tensor]:
        """Part → the sum of its losses over this batch, with gradient, divided by nothing yet.

        With the counts of a step, its loss is Σ weight(part) · sum / count: what `forward` gives.
        """
        one = encoded.hidden.new_ones((), dtype=torch.float32)
        return {part.name: self.vocabulary_losses([part], {part.name: one})[0] for part in encoded.parts}

    def weight(self, part: str) -> float:
        """What the mean of a part is multiplied by in the loss."""
        return 1.0
