"""DiffCSE: SimCSE whose vector must also tell what was changed in its text (Chuang et al., 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retromae.core.config import setting
from retromae.core.draws import Stream, at_positions, stream_keys, uniform
from retromae.models import flops
from retromae.models.backbone import Backbone
from retromae.models.losses import CHUNK_ROWS
from retromae.objectives import simcse
from retromae.objectives.base import Batch, Drawn, Vocabulary, count
from retromae.objectives.contrast import freeze_vocabulary_head, full


@dataclass
class DiffCSEConfig(simcse.SimCSEConfig):
    replaced_probability: float = setting(0.3, "share of the words that the generator guesses anew")
    rtd_weight: float = setting(0.005, "weight of finding the replaced tokens")


class DiffCSE(simcse.SimCSE):
    """SimCSE, and a discriminator that finds the replaced tokens of an edited row with the help of its vector.

        x''  = x with 30 % of its words masked and filled in by the generator, which samples from its own guesses
        D    = discriminator over [h, e''_1, …, e''_N], h = [CLS] of x in the place of the first token's embedding
        L    = L_SimCSE + 0.005 · mean over ordinary tokens t of BCE(D_t, x''_t ≠ x_t)

    The generator is the encoder as it was before training, frozen, the discriminator a copy that is trained. Both
    are kept in a checkpoint, so that a run goes on with the same generator. Where a family's embeddings are smaller
    than its states, h goes through a fresh linear layer.

    Departures from the released code, which takes the generator's likeliest word, conditions on the projected vector
    and projects with batch norm: words are sampled and h is the sentence vector itself, as the paper has it, and the
    projection is SimCSE's, since with batch norm a vector depends on its micro-batch.
    Rows: any text. Parts: `contrast`, `rtd`; `encoder` where mlm_weight > 0.
    """

    Config = DiffCSEConfig
    paper = "DiffCSE: Difference-based Contrastive Learning for Sentence Embeddings (2022)"
    settings: DiffCSEConfig

    def __init__(
        self, backbone: Backbone, settings: DiffCSEConfig, vocabulary: Vocabulary, seed: int = 0
    ) -> None:
        super().__init__(backbone, settings, vocabulary, seed)
        self.generator = deepcopy(backbone).requires_grad_(False).eval()
        self.discriminator = Discriminator(backbone)

    def heads(self) -> dict[str, nn.Module]:
        return {**super().heads(), "generator": self.generator, "discriminator": self.discriminator}

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.generator.eval()
        return self

    def draw(self, batch: Batch) -> Drawn:
        drawn = super().draw(batch)
        masked, replaced = self.mask_words(batch, self.settings.replaced_probability, decoder=True)
        drawn.tensors.update(masked=masked, replaced=replaced)
        drawn.tensors["ordinary"] = self.is_ordinary(batch)
        drawn.counts["rtd"] = count(drawn.tensors["ordinary"])
        return drawn

    def forward(
        self, batch: Batch, drawn: Drawn | None = None, totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        drawn = drawn or self.draw(batch)
        totals = totals or drawn.counts
        views = self.views(batch)
        contrast = self.contrast_loss(self.projected(views, drawn), drawn, totals)
        rtd = self.detect(views[0], batch, drawn)[0].sum() / totals["rtd"].clamp(min=1)
        output = {"contrast": contrast.detach(), "rtd": rtd.detach()}
        loss = contrast + self.settings.rtd_weight * rtd
        if self.guesses_words:
            mlm, parts = self.vocabulary_losses([self.guessed(batch, drawn)], totals)
            output |= parts
            loss = loss + self.settings.mlm_weight * mlm
        return {"loss": loss, **output}

    def detect(self, sentence: Tensor, batch: Batch, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """Losses of all ordinary tokens (n,), and whether each was found out (n,), given the rows' vectors (B, d)."""
        edited = self.edit(batch, drawn)
        ordinary = drawn.places("ordinary")
        scores = self.discriminator(sentence, edited, batch.mask).flatten().index_select(0, ordinary)
        changed = (edited != batch.token_ids).flatten().index_select(0, ordinary)
        losses = F.binary_cross_entropy_with_logits(scores, changed.to(scores.dtype), reduction="none")
        return losses, (scores > 0) == changed

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # nothing to gain: no gradient, many shapes
    @torch.no_grad()
    def edit(self, batch: Batch, drawn: Drawn) -> Tensor:
        """(B, L): the rows with what the generator puts into their gaps, sampled, never a special token."""
        replaced = drawn.places("replaced")
        hidden = self.generator.encode(drawn.tensors["masked"], batch.mask, needed=replaced)
        hidden = hidden.flatten(0, 1).index_select(0, replaced)
        (keys,) = stream_keys(self.row_keys(batch), Stream.REPLACEMENT)
        where = uniform(at_positions(keys, batch.token_ids.shape[1])).flatten().index_select(0, replaced)
        ordinary: Tensor = self.ordinary  # type: ignore[assignment]
        words = sample_words(self.generator, hidden, where, ordinary)
        return batch.token_ids.flatten().index_copy(0, replaced, words).view_as(batch.token_ids)

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        drawn = self.draw(batch)
        views = self.views(batch)
        measures = self.measure_vectors(self.projected(views, drawn), drawn)
        losses, found = self.detect(views[0], batch, drawn)
        measures["rtd_loss"] = (losses.sum(), drawn.counts["rtd"])
        measures["rtd_accuracy"] = (found.sum(), drawn.counts["rtd"])
        if self.guesses_words:
            measures |= self.vocabulary_measures([self.guessed(batch, drawn)])
        return measures

    def flops(self, rows: int, length: int) -> float:
        masked = self.settings.replaced_probability * flops.ordinary_tokens(rows, length)
        generating = flops.encoder(self.backbone, rows, length, masked)  # forward only
        generating += flops.vocabulary(self.backbone, masked)
        size, width = self.backbone.hidden_size, self.backbone.embedding_size
        narrowing = 0 if width == size else 2 * rows * size * width
        detecting = flops.encoder(self.backbone, rows, length) + narrowing + 2 * rows * length * size
        return super().flops(rows, length) + generating + flops.TRAINING * detecting


class Discriminator(nn.Module):
    """A trained copy of the encoder that reads a sentence vector first; one score per token: replaced or not."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.encoder = deepcopy(backbone).requires_grad_(True)
        freeze_vocabulary_head(self.encoder)
        size, width = backbone.hidden_size, backbone.embedding_size
        self.narrow = nn.Identity() if width == size else nn.Linear(size, width)
        self.score = nn.Linear(size, 1)
        for module in (self.narrow, self.score):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=backbone.initializer_range)
                nn.init.zeros_(module.bias)

    def forward(self, sentence: Tensor, token_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, d), (B, L), (B, L) or None → (B, L)."""
        hidden = self.encoder.encode_after(self.narrow(sentence), token_ids, attention_mask)
        scores: Tensor = self.score(hidden)
        return full(scores[..., 0])


def sample_words(backbone: Backbone, hidden: Tensor, where: Tensor, allowed: Tensor) -> Tensor:
    """(n, d) states, (n,) numbers in [0, 1) → (n,) words: the one at which the cumulated probability passes it.

    allowed (V,) bool: the words to choose from.
    """
    chosen = torch.empty(len(hidden), dtype=torch.int64, device=hidden.device)
    for start in range(0, len(hidden), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        transformed = backbone.head_transform(hidden[part])
        logits = F.linear(transformed, backbone.head_weight, backbone.head_bias).float()
        passed = logits.masked_fill(~allowed, -torch.inf).softmax(dim=-1).cumsum(dim=-1)  # (chunk, V)
        total = passed[:, -1:]  # 1, but for rounding
        level = torch.minimum(where[part, None] * total, total.nextafter(torch.zeros_like(total)))
        chosen[part] = torch.searchsorted(passed, level, right=True)[:, 0]
    return chosen
