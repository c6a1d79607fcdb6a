"""One figure over several sets: every set counts the same, and one set is what it is alone."""

from __future__ import annotations

import numpy as np
import pytest

from retromae.core.errors import UserError
from retromae.evaluation.macro import macro_compare, macro_mean, stratified_interval
from retromae.evaluation.metrics import Result
from retromae.evaluation.significance import compare

METRIC = "nDCG@10"


def result(name: str, values: list[float]) -> Result:
    return Result.of(name, {METRIC: {f"q{number}": value for number, value in enumerate(values)}})


def draw(name: str, n: int, seed: int, above: float = 0.0) -> Result:
    return result(name, (np.random.default_rng(seed).random(n) + above).tolist())


def test_one_set_is_what_it_is_alone() -> None:
    a, b, c = draw("a", 40, 1), draw("b", 40, 2), draw("c", 40, 1, above=0.1)
    assert macro_mean({"toy": [a]}, METRIC).low == a.metrics[METRIC].low
    assert macro_mean({"toy": [a]}, METRIC).mean == pytest.approx(a[METRIC])
    found = macro_compare({one.name: {"toy": [one]} for one in (a, b, c)}, METRIC, baseline="b")
    for mine, theirs in zip(found, compare([a, b, c], METRIC, baseline="b"), strict=True):
        assert (mine.system, mine.baseline) == (theirs.system, theirs.baseline)
        assert (mine.low, mine.high) == (theirs.low, theirs.high)
        assert mine.difference == pytest.approx(theirs.difference)
        assert (mine.p, mine.adjusted) == (theirs.p, theirs.adjusted)


def test_every_set_counts_the_same_and_parts_share_theirs() -> None:
    small, large = result("s", [1.0, 1.0]), result("s", [0.0] * 98)
    assert macro_mean({"small": [small], "large": [large]}, METRIC).mean == 0.5
    forums = [result("s", [1.0]), result("s", [0.0] * 3)]
    assert macro_mean({"forums": forums, "large": [large]}, METRIC).mean == 0.25


def test_the_interval_of_two_sets_is_that_of_independent_means() -> None:
    """Against the normal approximation: the variance of a mean of means."""
    sets = [np.random.default_rng(1).random(300), 3 * np.random.default_rng(2).random(900)]
    low, high = stratified_interval([(0.5, values) for values in sets], draws=4000)
    spread = 1.96 * np.sqrt(sum(0.25 * values.var() / values.size for values in sets))
    middle = sum(values.mean() for values in sets) / 2
    assert low == pytest.approx(middle - spread, abs=0.1 * spread)
    assert high == pytest.approx(middle + spread, abs=0.1 * spread)


def test_a_difference_on_a_small_set_is_seen_beside_a_large_one() -> None:
    """Pooled queries would drown it; the order of the queries does not matter."""
    base = {"small": [draw("b", 60, 1)], "large": [draw("b", 600, 2)]}
    values = {query: value + 0.2 for query, value in base["small"][0].per_query[METRIC].items()}
    better = Result.of("a", {METRIC: dict(reversed(values.items()))})
    (pair,) = macro_compare(
        {"a": {"small": [better], "large": base["large"]}, "b": base}, METRIC, baseline="b"
    )
    assert pair.difference == pytest.approx(0.1) and pair.low == pytest.approx(0.1)
    assert pair.p < 0.01


def test_other_queries_are_refused() -> None:
    with pytest.raises(UserError, match="toy: two systems were measured on other queries"):
        macro_compare(
            {"a": {"toy": [draw("a", 5, 1)]}, "b": {"toy": [draw("b", 6, 1)]}}, METRIC, baseline="b"
        )
