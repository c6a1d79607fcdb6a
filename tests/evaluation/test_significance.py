from __future__ import annotations

import numpy as np
import pytest

from retromae.core.errors import UserError
from retromae.core.statistics import bootstrap_interval, paired_randomisation
from retromae.evaluation.metrics import Result
from retromae.evaluation.significance import compare

GENERATOR = np.random.default_rng(4)
BASE = GENERATOR.random(80)


def system(name: str, values: np.ndarray, prefix: str = "q") -> Result:
    return Result.of(name, {"nDCG@10": {f"{prefix}{i}": float(v) for i, v in enumerate(values)}})


def test_one_pair() -> None:
    better = BASE + GENERATOR.normal(0.05, 0.1, size=80)
    (pair,) = compare([system("base", BASE), system("better", better)], "nDCG@10")
    assert (pair.system, pair.baseline) == ("better", "base")
    assert pair.difference == pytest.approx((better - BASE).mean())
    assert pair.p == pair.adjusted == paired_randomisation(better, BASE)
    assert (pair.low, pair.high) == bootstrap_interval(better - BASE)
    assert pair.significant()


def test_several_systems_are_corrected_together() -> None:
    results = [system(f"s{i}", BASE + GENERATOR.normal(0.02, 0.1, size=80)) for i in range(3)]
    pairs = compare([*results, system("base", BASE)], "nDCG@10", baseline="base")
    assert [pair.system for pair in pairs] == ["s0", "s1", "s2"]
    smallest = min(pairs, key=lambda pair: pair.p)
    assert smallest.adjusted == pytest.approx(min(1, 3 * smallest.p))
    assert all(pair.adjusted >= pair.p for pair in pairs)


def test_queries_are_matched_by_id_and_not_by_place() -> None:
    values = system("other", BASE).per_query["nDCG@10"]
    turned = Result.of("other", {"nDCG@10": dict(reversed(values.items()))})
    (pair,) = compare([system("base", BASE), turned], "nDCG@10")
    assert pair.difference == 0
    assert pair.p == 1
    assert not pair.significant()


def test_systems_that_cannot_be_compared_are_refused() -> None:
    base = system("base", BASE)
    with pytest.raises(UserError, match="160 differ"):
        compare([base, system("other", BASE, prefix="r")], "nDCG@10")
    with pytest.raises(UserError, match="1 differ"):
        compare([base, system("other", BASE[:-1])], "nDCG@10")
    with pytest.raises(UserError, match="called 'base'"):
        compare([base, base], "nDCG@10")
    with pytest.raises(UserError, match="at least two"):
        compare([base], "nDCG@10")
    with pytest.raises(UserError, match="'bm25' is not among"):
        compare([base, system("other", BASE)], "nDCG@10", baseline="bm25")
    with pytest.raises(UserError, match="no RR@10"):
        compare([base, system("other", BASE)], "RR@10")
