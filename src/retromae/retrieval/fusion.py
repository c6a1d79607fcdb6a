"""Several rankings of the same queries made into one: by reciprocal ranks, or by weighted scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from retromae.core.errors import UserError
from retromae.core.ranking import Ranking, Run

Floats = npt.NDArray[np.float64]
Normalisation = Literal["min-max", "z"]


def reciprocal_rank(runs: Sequence[Run], *, k: float = 60, depth: int | None = None) -> Run:
    """Reciprocal rank fusion: each document's score is the sum over the runs of 1 / (k + rank), ranks from 1.

    A run that does not have the document adds nothing. `depth` keeps that many results of each query.
    """
    if k < 0:
        raise UserError(f"k of reciprocal rank fusion must not be negative, got {k}.")

    def score(ranking: Ranking) -> tuple[Floats, float]:
        return 1 / (k + 1 + np.arange(len(ranking.ids))), 0.0

    return _fuse(runs, [1.0] * len(runs), score, depth)


def weighted(
    runs: Sequence[Run],
    weights: Sequence[float],
    *,
    normalisation: Normalisation = "min-max",
    depth: int | None = None,
) -> Run:
    """Weighted sum of each run's scores, made comparable query by query over the union of all candidates.

    A candidate that a run did not retrieve is given that run's lowest score for the query before normalising.
    "min-max" maps a run's lowest score to 0 and its highest to 1; "z" subtracts the mean over the union and
    divides by the standard deviation. A run whose scores are all equal adds 0. Fuse runs that are deeper than
    the `depth` kept: what a run cut off, it cannot vote for.
    """
    if len(weights) != len(runs):
        raise UserError(f"{len(runs)} runs need as many weights, got {len(weights)}.")
    if normalisation not in ("min-max", "z"):
        raise UserError(f"normalisation {normalisation!r} is not known; use min-max or z.")

    def score(ranking: Ranking) -> tuple[Floats, float]:
        return ranking.scores, float(ranking.scores[-1])

    return _fuse(runs, weights, score, depth, _NORMALISE[normalisation])


def _min_max(scores: Floats) -> Floats:
    span = np.ptp(scores)
    return (scores - scores.min()) / span if span else np.zeros_like(scores)


def _z(scores: Floats) -> Floats:
    spread = scores.std() if np.ptp(scores) else 0.0
    return (scores - scores.mean()) / spread if spread else np.zeros_like(scores)


_NORMALISE: dict[str, Callable[[Floats], Floats]] = {"min-max": _min_max, "z": _z}


def _fuse(
    runs: Sequence[Run],
    weights: Sequence[float],
    score: Callable[[Ranking], tuple[Floats, float]],
    depth: int | None,
    normalise: Callable[[Floats], Floats] = lambda scores: scores,
) -> Run:
    """`score` gives one ranking's scores and the score of a document that it lacks."""
    if not runs:
        raise UserError("there is no run to fuse.")
    places: dict[str, int] = {}
    documents: list[int] = []
    totals: list[Floats] = []
    queries = list(dict.fromkeys(query for run in runs for query in run))
    for query in queries:
        rankings = [run[query] if query in run else Ranking([], np.empty(0)) for run in runs]
        union = {
            document: row for row, document in enumerate(dict.fromkeys(d for r in rankings for d in r.ids))
        }
        total = np.zeros(len(union))
        for weight, ranking in zip(weights, rankings):
            if ranking.ids:
                own, absent = score(ranking)
                scores = np.full(len(union), absent)
                scores[[union[document] for document in ranking.ids]] = own
                total += weight * normalise(scores)
        documents.extend(places.setdefault(document, len(places)) for document in union)
        totals.append(total)
    fused = Run(
        queries, [len(t) for t in totals], documents, np.concatenate([*totals, np.empty(0)]), list(places)
    )
    return fused if depth is None else fused.cut(depth)
