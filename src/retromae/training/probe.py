"""Is it working? A retrieval test that needs no labels, small enough to run while training.

From held-out rows pairs are made: a title and the passage it stands over, where the title is unique; otherwise one
sentence, cut out of its passage, and what is left of the passage. [CLS] of each query is compared with [CLS] of all
held-out passages; the figure is nDCG@10 of finding its own, with a bootstrap interval.

Before contrastive training [CLS] vectors share one large component (docs/pretraining.md), so two figures are given:
`probe_ndcg@10`, cosine after the mean of the passages is taken off, which shows what the vectors carry, and
`probe_ndcg@10_raw`, the plain dot product that a search would use now.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from retromae.core.draws import Stream, key
from retromae.core.packing import cuts
from retromae.core.statistics import bootstrap_interval
from retromae.models.backbone import Backbone
from retromae.text.rows import Rows
from retromae.training.batches import Padding, pad

Tokens = NDArray[np.int32]
MINIMUM = 5  # tokens that a query, and what is left of its passage, must have


@dataclass(frozen=True)
class Probe:
    """Queries and passages as token ids; query i belongs to passage `answers[i]`."""

    queries: list[Tokens]
    passages: list[Tokens]
    answers: NDArray[np.int64]
    titles: int  # how many queries are titles; the rest are sentences

    @classmethod
    def build(cls, rows: Rows, held_out: NDArray[np.int64], most_queries: int) -> Probe:
        bodies = {int(row): _tokens(rows, int(row)) for row in held_out}
        title_lengths = rows.title_lengths
        titles = {row: tokens[: title_lengths[row]].tobytes() for row, tokens in bodies.items()}
        counted = _counts(titles.values())
        queries: list[Tokens] = []
        passages: list[Tokens] = []
        answers: list[int] = []
        by_title = 0
        for row, tokens in bodies.items():
            title, body = tokens[: title_lengths[row]], tokens[title_lengths[row] :]
            query: Tokens | None = None
            if len(queries) < most_queries:
                if len(title) and counted[titles[row]] == 1 and len(body) >= MINIMUM:
                    query = title
                    by_title += 1
                else:
                    query, body = _cut_sentence(body, rows.sentence_starts(row) - len(title), row)
            if query is not None:
                queries.append(query)
                answers.append(len(passages))
            passages.append(body)
        return cls(queries, passages, np.asarray(answers, dtype=np.int64), by_title)

    def facts(self) -> dict[str, int]:
        return {"queries": len(self.queries), "titles": self.titles, "passages": len(self.passages)}

    @torch.no_grad()
    def run(
        self, backbone: Backbone, padding: Padding, device: torch.device, tokens: int
    ) -> dict[str, float]:
        """nDCG@10 with its interval; `tokens` is the budget of one batch."""
        if not self.queries:
            return {}
        queries = _embed(backbone, self.queries, padding, device, tokens)
        passages = _embed(backbone, self.passages, padding, device, tokens)
        centre = passages.mean(dim=0)
        centred = F.normalize(queries - centre, dim=1) @ F.normalize(passages - centre, dim=1).t()
        gains = _ndcg(centred.cpu(), self.answers)
        low, high = bootstrap_interval(gains)
        return {
            "probe_ndcg@10": float(gains.mean()),
            "probe_ndcg@10_low": low,
            "probe_ndcg@10_high": high,
            "probe_ndcg@10_raw": float(_ndcg((queries @ passages.t()).cpu(), self.answers).mean()),
        }


def _tokens(rows: Rows, row: int) -> Tokens:
    return rows.take(np.asarray([row], dtype=np.int64))[0]


def _counts(values: object) -> dict[bytes, int]:
    counted: dict[bytes, int] = {}
    for value in values:  # type: ignore[attr-defined]
        counted[value] = counted.get(value, 0) + 1
    return counted


def _cut_sentence(body: Tokens, starts: NDArray[np.int32], row: int) -> tuple[Tokens | None, Tokens]:
    """One sentence of the body as a query and the body without it; None where no cut leaves enough of both."""
    edges = np.unique(np.concatenate([[0], np.clip(starts, 0, len(body)), [len(body)]]))
    sizes = np.diff(edges)
    fit = np.flatnonzero((sizes >= MINIMUM) & (len(body) - sizes >= MINIMUM))
    if not len(fit):
        return None, body
    chosen = int(fit[key(int(Stream.PROBE), row) % len(fit)])
    first, last = int(edges[chosen]), int(edges[chosen + 1])
    return body[first:last], np.concatenate([body[:first], body[last:]])


def _embed(
    backbone: Backbone, texts: list[Tokens], padding: Padding, device: torch.device, budget: int
) -> Tensor:
    """(n, d) [CLS] vectors, encoded in batches sorted by length."""
    lengths = np.asarray([len(text) for text in texts], dtype=np.int64)
    by_length = np.argsort(lengths, kind="stable")
    padded = padding.length(lengths[by_length].astype(np.int32))
    vectors = torch.empty(len(texts), backbone.hidden_size, device=device)
    for start, stop in cuts(padded, budget):
        part = by_length[start:stop]
        token_ids, mask = pad(np.concatenate([texts[i] for i in part]), lengths[part], padding)
        first = backbone.encode_first(
            torch.from_numpy(token_ids).to(device), torch.from_numpy(mask).to(device)
        )
        vectors[torch.from_numpy(part).to(device)] = first.float()
    return vectors


def _ndcg(scores: Tensor, answers: NDArray[np.int64], k: int = 10) -> NDArray[np.float64]:
    """nDCG@k of each query with one right passage. Of equal scores the earlier passage comes first."""
    own = scores.gather(1, torch.from_numpy(answers)[:, None])
    earlier = torch.arange(scores.shape[1])[None, :] < torch.from_numpy(answers)[:, None]
    rank = (scores > own).sum(dim=1) + ((scores == own) & earlier).sum(dim=1)  # from 0
    gains = torch.where(rank < k, 1.0 / torch.log2(rank.double() + 2.0), 0.0)
    return gains.double().numpy()
