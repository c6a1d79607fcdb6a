"""Is one system better than another, or did it have luck with the queries?

Systems are compared on the same queries, pair by pair: two-sided paired randomisation, Holm's correction over
all the systems that are compared with one baseline, and a bootstrap interval of the mean difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retromae.core.errors import UserError
from retromae.core.statistics import bootstrap_interval, holm, paired_randomisation
from retromae.evaluation.metrics import Result


@dataclass(frozen=True)
class Comparison:
    """`system` minus `baseline` in one metric; `p` is of this pair alone, `adjusted` after Holm."""

    metric: str
    system: str
    baseline: str
    difference: float
    low: float
    high: float
    p: float
    adjusted: float

    def significant(self, level: float = 0.05) -> bool:
        return self.adjusted <= level


def compare(
    results: Sequence[Result],
    metric: str,
    *,
    baseline: str | None = None,
    draws: int = 10000,
    seed: int = 0,
) -> list[Comparison]:
    """Compare every system with the baseline (by name; the first result if none is named), in order.

    The correction covers the comparisons of this one call; metrics and sets are separate questions.
    """
    names = [result.name for result in results]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"two systems are called {repeated[0]!r}; name them apart.")
    if len(results) < 2:
        raise UserError(f"a comparison needs at least two systems, got {names}.")
    if baseline is not None and baseline not in names:
        raise UserError(f"the baseline {baseline!r} is not among the systems {', '.join(names)}.")
    base = results[names.index(baseline) if baseline is not None else 0]
    others = [result for result in results if result is not base]
    queries = base.queries
    reference = _values(base, metric, queries)
    values = [_values(other, metric, queries) for other in others]
    pvalues = [paired_randomisation(own, reference, draws=draws, seed=seed) for own in values]
    return [
        Comparison(
            metric=metric,
            system=other.name,
            baseline=base.name,
            difference=float((own - reference).mean()),
            **dict(zip(("low", "high"), bootstrap_interval(own - reference, seed=seed))),
            p=p,
            adjusted=float(adjusted),
        )
        for other, own, p, adjusted in zip(others, values, pvalues, holm(pvalues))
    ]


def _values(result: Result, metric: str, queries: Sequence[str]) -> npt.NDArray[np.float64]:
    """The per-query values in the order of `queries`, which must be exactly this result's queries."""
    if metric not in result.per_query:
        raise UserError(f"{result.name!r} has no {metric}; it has {', '.join(result.per_query)}.")
    values = result.per_query[metric]
    odd = sorted(values.keys() ^ set(queries))
    if odd:
        raise UserError(
            f"{result.name!r} was measured on other queries than its baseline ({len(odd)} differ, one is "
            f"{odd[0]!r}); measure both on the same judgements."
        )
    return np.array([values[query] for query in queries], dtype=np.float64)
