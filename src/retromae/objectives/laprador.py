"""LaPraDoR: two towers trained in turn, each against a pool of the other one's vectors (Xu et al., 2022)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retromae.core.config import setting
from retromae.core.draws import Stream, at_positions, below, stream_keys
from retromae.core.errors import UserError
from retromae.models import flops
from retromae.models.backbone import Backbone
from retromae.objectives.base import Batch, Drawn, Vocabulary, count
from retromae.objectives.contrast import (
    GRADIENT,
    Contrastive,
    freeze_vocabulary_head,
    full,
    info_nce,
    keep_tokens,
    kept_width,
    nearest_is_own,
    row_ends,
    token_of_word,
    without_dropout,
)


@dataclass
class LaPraDoRConfig:
    temperature: float = setting(0.05, "what cosines are divided by")
    query_words: int = setting(
        32, "the most words that are cut out as a query; never more than half of the row"
    )
    removed_probability: float = setting(0.9, "share of the rows whose document is left without its query")
    turn_steps: int = setting(100, "steps for which one tower is trained before it is the other's turn")
    pool_size: int = setting(16384, "vectors of the frozen tower that are kept as negatives")
    dropout_weight: float = setting(1.0, "weight of finding the same text under another draw of dropout")


class Tower(NamedTuple):
    """One of the two encoders, and what it reads."""

    encoder: Backbone
    token_ids: Tensor
    attention_mask: Tensor


class LaPraDoR(Contrastive):
    """A query is a run of words of a row, its document what is left of the row (inverse cloze task).

    Documents and queries have encoders of their own, which start alike and are trained in turn, `turn_steps` each,
    the document's first. While one is trained, the other is frozen: its vectors stay true, so they are pooled as
    further negatives, and the pool is emptied when the turn changes. Dropout makes a second positive.

        a, a'  [CLS] of the text of the tower in training, under two draws of dropout
        k      [CLS] of its partner from the frozen tower, without dropout; P the pool of earlier ones
        L      = mean over rows i of −log [ e(a_i, k_i) / (Σ_j e(a_i, k_j) + Σ_{p in P} e(a_i, p)) ]
                                     −log [ e(a_i, a'_i) / Σ_j e(a_i, a'_j) ],      e(x, y) = exp(cos(x, y)/τ)

    The document's encoder is the backbone, the model that people get; the query's is a head. Pool and steps are part
    of a training checkpoint and the same on all processes; a new run begins with a first turn and an empty pool.
    Measured is, always alike: queries find their documents, without a pool.
    Rows: passages of several sentences. Parts: `contrast`.
    """

    Config = LaPraDoRConfig
    paper = "LaPraDoR: Unsupervised Pretrained Dense Retriever for Zero-Shot Text Retrieval (2022)"
    needs_dropout = True
    settings: LaPraDoRConfig

    def __init__(
        self, backbone: Backbone, settings: LaPraDoRConfig, vocabulary: Vocabulary, seed: int = 0
    ) -> None:
        super().__init__(backbone, settings, vocabulary, seed)
        for name in ("turn_steps", "query_words"):
            if getattr(settings, name) < 1:
                raise UserError(f"{name} is {getattr(settings, name)}, but must be at least 1.")
        freeze_vocabulary_head(backbone)
        self.query = deepcopy(backbone)
        self.pool = Pool(settings.pool_size, backbone.hidden_size)
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # begun, of this run

    def heads(self) -> dict[str, nn.Module]:
        return {"query": self.query}

    # -- turns --------------------------------------------------------------------------------------------------

    def begin_step(self) -> None:
        if int(self.steps) % self.settings.turn_steps == 0:
            self.pool.empty()
        self.steps += 1

    @property
    def trains_documents(self) -> bool:
        """Is it the document tower's turn? When measured, never: there it is queries that look for documents."""
        turn = (max(1, int(self.steps)) - 1) // self.settings.turn_steps
        return self.training and turn % 2 == 0

    def resting(self) -> list[nn.Parameter]:
        frozen = self.query if self.trains_documents else self.backbone
        return [parameter for parameter in frozen.parameters() if parameter.requires_grad]

    def remember(self, vectors: Tensor) -> None:
        self.pool.push(F.normalize(full(vectors[:, 2]), dim=-1))

    # -- the loss -----------------------------------------------------------------------------------------------

    def draw(self, batch: Batch) -> Drawn:
        words = self.words(batch)
        number = words.amax(dim=1) + 1  # (B,) words of each row
        draws = stream_keys(self.row_keys(batch), Stream.RUN_WORDS, Stream.RUN_START, Stream.RUN_REMOVED)
        size, start, removal = at_positions(draws.flatten(), 1).view(3, -1).to(torch.int64)
        most = (number // 2).clamp(min=1, max=self.settings.query_words)
        size = most - size.remainder(most // 2 + 1)  # from half of the most to the most
        start = start.remainder((number - size + 1).clamp(min=1))
        run = run_of_words(words, batch.attention_mask, start, size)
        removed = below(removal.to(torch.int32), self.settings.removed_probability) & (number > size)
        query_mask, query_ids = keep_tokens(run | row_ends(batch.attention_mask), batch.token_ids)
        kept = batch.attention_mask.bool() & ~(run & removed[:, None])
        document_mask, document_ids = keep_tokens(kept, batch.token_ids)
        compared = number > 0
        return Drawn(
            {
                "query_ids": query_ids,
                "query_mask": query_mask,
                "document_ids": document_ids,
                "document_mask": document_mask,
                "compared": compared,
            },
            {"contrast": count(compared)},
        )

    def vectors(self, batch: Batch, drawn: Drawn) -> Tensor:
        """(n, 3, d): a, a' and k; without k where gradients are known."""
        query = Tower(self.query, drawn.tensors["query_ids"], drawn.tensors["query_mask"])
        document = Tower(self.backbone, drawn.tensors["document_ids"], drawn.tensors["document_mask"])
        trained, frozen = (document, query) if self.trains_documents else (query, document)
        token_ids, attention_mask = trained.token_ids.repeat(2, 1), trained.attention_mask.repeat(2, 1)
        vectors = [*trained.encoder.encode_first(token_ids, attention_mask).chunk(2)]
        if GRADIENT not in drawn.tensors:
            with torch.no_grad(), without_dropout(frozen.encoder):
                vectors.append(frozen.encoder.encode_first(frozen.token_ids, frozen.attention_mask))
        return torch.stack(vectors, dim=1).index_select(0, drawn.places("compared"))

    def contrast(self, vectors: Tensor) -> Tensor:
        first, second, keys = F.normalize(full(vectors), dim=-1).unbind(dim=1)
        candidates = torch.cat([keys, self.pool.content()]) if self.training else keys
        partner = info_nce(first, candidates, self.settings.temperature)
        itself = info_nce(first, second, self.settings.temperature)
        return partner + self.settings.dropout_weight * itself

    def measure_vectors(self, vectors: Tensor, drawn: Drawn) -> dict[str, tuple[Tensor, Tensor]]:
        """Also `contrast_accuracy`: how often a query finds its document among those of its batch."""
        query, _, document = F.normalize(vectors, dim=-1).unbind(dim=1)
        return {
            **super().measure_vectors(vectors, drawn),
            "contrast_accuracy": (nearest_is_own(query, document), drawn.counts["contrast"]),
        }

    def flops(self, rows: int, length: int) -> float:
        """The mean over both turns, in which the pool fills. A word is taken for one token. Of a batch of some size
        one query has about the most words, and one document, which all are padded to, is still whole."""
        most = max(1, min(self.settings.query_words, (length - 2) // 2))
        query = flops.encoder(self.backbone, rows, kept_width(2 + most, length), rows)
        document = flops.encoder(self.backbone, rows, length, rows)
        towers = (2 * flops.TRAINING + 1) * (query + document) / 2  # one trained on two views, one read once
        size, steps = self.backbone.hidden_size, self.settings.turn_steps
        pooled = sum(min(rows * step, self.settings.pool_size) for step in range(steps)) / steps
        return towers + 2 * rows * (2 * rows + pooled) * size * flops.TRAINING


def run_of_words(words: Tensor, attention_mask: Tensor, start: Tensor, size: Tensor) -> Tensor:
    """(B, L) bool: the tokens of `size` (B,) words from number `start` (B,) on, and what stands between them."""
    place = torch.arange(words.shape[1], device=words.device)
    last = attention_mask.sum(dim=1) - 1  # [SEP]
    behind = torch.minimum(token_of_word(words, start + size), last)
    return attention_mask.bool() & (place >= token_of_word(words, start)[:, None]) & (place < behind[:, None])


class Pool(nn.Module):
    """The latest vectors of a tower, the oldest written over first."""

    vectors: Tensor
    pushed: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, width))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))  # since it was empty

    def empty(self) -> None:
        self.pushed.zero_()

    @torch.no_grad()
    def push(self, vectors: Tensor) -> None:
        """(n, d)"""
        size = len(self.vectors)
        place = int(self.pushed) + torch.arange(len(vectors), device=vectors.device)
        if size:
            self.vectors[place[-size:] % size] = vectors[-size:].to(self.vectors.dtype)
        self.pushed += len(vectors)

    def content(self) -> Tensor:
        """(m, d), m up to the pool's size."""
        return self.vectors[: int(self.pushed)]
