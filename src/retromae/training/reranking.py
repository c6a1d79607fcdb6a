"""How well a cross-encoder orders candidates: nDCG@10 and RR@10 of the known answers among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator

from retromae.core import distributed
from retromae.core.statistics import bootstrap_interval
from retromae.text.candidates import Candidates
from retromae.text.pairs import Pairs
from retromae.training.cross_encoder import score_numbers
from retromae.training.teacher_groups import negatives_of, take

CUT = 10
_PART = 4096  # pairs of texts that are held at once


class Reranking(BaseEvaluator):
    """Re-ranks, for some queries, their best `depth` candidates and all of their answers.

    The answers are always among what is ordered, found or not: what is measured is the cross-encoder alone, not
    what found the candidates. Processes share the work.
    """

    def __init__(
        self,
        pairs: Pairs,
        candidates: Candidates,
        queries: NDArray[np.int64],
        *,
        depth: int,
        batch_tokens: int | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.primary_metric = f"nDCG@{CUT}"
        self.pairs, self.queries = pairs, queries
        self.how: dict[str, Any] = {"batch_tokens": batch_tokens, "bf16": bf16}
        wrong, right = negatives_of(pairs, candidates, queries, depth), take(pairs.positives, queries)
        self.owners = np.concatenate([right.owners, wrong.owners])  # (m,) place in `queries`
        self.passages = np.concatenate([right.members, wrong.members])  # (m,)
        self.relevant = np.arange(len(self.passages)) < len(right.members)

    def __call__(  # type: ignore[override]  # of all models, it measures cross-encoders
        self, model: CrossEncoder, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Means over the queries, and the interval of the first."""
        ndcg, rr = self._figures(self._scores(model))
        low, high = bootstrap_interval(ndcg)
        name = f"nDCG@{CUT}"
        return {
            name: float(ndcg.mean()),
            f"{name}_low": low,
            f"{name}_high": high,
            f"RR@{CUT}": float(rr.mean()),
        }

    def _scores(self, model: CrossEncoder) -> NDArray[np.float64]:
        scores = np.zeros(len(self.passages), dtype=np.float64)
        for start in range(_PART * distributed.rank(), len(scores), _PART * distributed.world_size()):
            part = slice(start, start + _PART)
            queries = self.queries[self.owners[part]]
            scores[part] = score_numbers(model, self.pairs, queries, self.passages[part], **self.how)
        shared = torch.from_numpy(scores).float().to(model.device)  # float32 is what they are
        return distributed.sum_over_ranks(shared).double().cpu().numpy()

    def _figures(self, scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(queries,) nDCG and RR. Of equal scores the wrong passage comes first: a constant earns nothing."""
        ranking = np.lexsort((self.relevant, -scores, self.owners))
        owners, relevant = self.owners[ranking], self.relevant[ranking]
        counts = np.bincount(owners, minlength=len(self.queries))
        rank = np.arange(len(owners)) - (np.cumsum(counts) - counts)[owners]  # from 0
        hit = relevant & (rank < CUT)
        gains = np.bincount(owners[hit], 1.0 / np.log2(rank[hit] + 2.0), minlength=len(self.queries))
        answers = np.bincount(owners[relevant], minlength=len(self.queries))
        ideal = np.cumsum(1.0 / np.log2(np.arange(CUT) + 2.0))[np.minimum(answers, CUT) - 1]
        first = np.full(len(self.queries), np.inf)
        np.minimum.at(first, owners[hit], rank[hit] + 1.0)
        return gains / ideal, 1.0 / first
