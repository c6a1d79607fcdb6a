"""One figure over several sets: the plain mean of the sets' means, with an interval and a paired test.

Every set counts the same, however many queries it has; the forums of CQADupStack together count as one. Queries are
drawn anew within each set: the figure speaks of other queries of these sets, not of other sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from retromae.core.errors import UserError
from retromae.core.statistics import bootstrap_interval, holm, paired_randomisation
from retromae.evaluation.metrics import Metric, Result
from retromae.evaluation.significance import Comparison

Floats = npt.NDArray[np.float64]
Results = Mapping[str, Sequence[Result]]  # set → its parts, mostly one
Strata = Sequence[tuple[float, Floats]]  # (share of the figure, values of the queries)

_CHUNK = 1 << 20  # resampled numbers held at once


def macro_mean(results: Results, metric: str) -> Metric:
    """The mean over the sets and its 95 % interval; of one set, exactly what its `Result` says."""
    strata = _strata(results, results, metric)
    mean = sum(share * float(values.mean()) for share, values in strata)
    return Metric(mean, *stratified_interval(strata))


def macro_compare(systems: Mapping[str, Results], metric: str, *, baseline: str) -> list[Comparison]:
    """Every system against the baseline in the mean over the sets, Holm-corrected, in order.

    The test flips the sign of each query's difference, weighted as the query is in the figure.
    """
    reference = systems[baseline]
    base = _strata(reference, reference, metric)
    found = []
    for name, results in systems.items():
        if name == baseline:
            continue
        own = _strata(results, reference, metric)
        apart = [(share, values - other) for (share, values), (_, other) in zip(own, base)]
        flat = np.concatenate([share / values.size * values for share, values in apart])
        low, high = stratified_interval(apart)
        p = paired_randomisation(flat, np.zeros_like(flat))
        found.append((name, float(flat.sum()), low, high, p))
    adjusted = holm([p for *_, p in found])
    return [
        Comparison(metric, name, baseline, difference, low, high, p, float(corrected))
        for (name, difference, low, high, p), corrected in zip(found, adjusted)
    ]


def stratified_interval(
    strata: Strata, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of Σ share · mean, with queries drawn within each stratum."""
    if len(strata) == 1:
        return bootstrap_interval(strata[0][1], level=level, draws=draws, seed=seed)
    means = np.zeros(draws)
    for place, (share, values) in enumerate(strata):
        generator = np.random.default_rng([seed, place])
        step = max(1, _CHUNK // values.size)
        for start in range(0, draws, step):
            count = min(step, draws - start)
            drawn = values[generator.integers(0, values.size, size=(count, values.size))]  # (count, queries)
            means[start : start + count] += share * drawn.mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _strata(results: Results, reference: Results, metric: str) -> Strata:
    """The parts in the reference's order, each with its queries in the reference's order."""
    found = []
    for name, parts in reference.items():
        for own, other in zip(results[name], parts, strict=True):
            theirs, mine = other.per_query[metric], own.per_query[metric]
            if theirs.keys() != mine.keys():
                raise UserError(
                    f"{name}: two systems were measured on other queries; measure both on the same."
                )
            values = np.array([mine[query] for query in theirs], dtype=np.float64)
            found.append((1 / (len(reference) * len(parts)), values))
    return found
