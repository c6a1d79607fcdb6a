from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from retromae.core import statistics
from retromae.core.errors import UserError
from retromae.core.statistics import bootstrap_interval, holm, paired_randomisation


def test_interval_agrees_with_scipys_bootstrap() -> None:
    values = np.random.default_rng(3).exponential(size=400)
    low, high = bootstrap_interval(values, draws=20000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=1)
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.005)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.005)


def test_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    intervals = [
        bootstrap_interval(generator.normal(size=60), level=0.8, draws=300, seed=s) for s in range(400)
    ]
    assert 0.73 < np.mean([low <= 0 <= high for low, high in intervals]) < 0.86


def test_interval_is_a_function_of_its_arguments() -> None:
    values = [0.1, 0.9, 0.4, 0.4]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    many = np.random.default_rng(9).random(50)
    assert bootstrap_interval(many, seed=1) != bootstrap_interval(many)
    assert bootstrap_interval([0.25] * 7) == (0.25, 0.25)


def test_resampling_in_many_chunks_changes_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).random(100)
    whole = bootstrap_interval(values, draws=4000), paired_randomisation(values, values**1.1, draws=4000)
    monkeypatch.setattr(statistics, "_CHUNK", 1000)
    parts = bootstrap_interval(values, draws=4000), paired_randomisation(values, values**1.1, draws=4000)
    assert parts[0] == pytest.approx(whole[0], abs=0.01)
    assert parts[1] == pytest.approx(whole[1], abs=0.03)


def test_randomisation_agrees_with_all_sign_flips() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.random(11), generator.random(11) + 0.15
    flips = np.array(list(itertools.product([-1, 1], repeat=11)))
    exact = np.mean(np.abs(flips @ (a - b)) >= abs((a - b).sum()) - 1e-12)
    assert paired_randomisation(a, b, draws=40000) == pytest.approx(exact, abs=0.01)


def test_randomisation_at_its_ends() -> None:
    a = np.linspace(0, 1, 40)
    assert paired_randomisation(a, a) == 1.0
    assert paired_randomisation(a, a + 1, draws=999) == 1 / 1000  # the observed assignment counts as one


def test_randomisation_does_not_care_which_system_comes_first() -> None:
    a, b = np.random.default_rng(1).random((2, 50))
    assert paired_randomisation(a, b) == paired_randomisation(b, a)


def test_randomisation_keeps_its_level() -> None:
    generator = np.random.default_rng(7)
    pvalues = [paired_randomisation(*generator.normal(size=(2, 30)), draws=200, seed=s) for s in range(500)]
    assert np.mean(np.array(pvalues) <= 0.1) < 0.14


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_lowers(pvalues: list[float]) -> None:
    adjusted = holm(pvalues)
    assert (adjusted >= np.array(pvalues)).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(pvalues, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [[0.1], [0.2]]])
def test_bad_values_are_refused(values: list[float]) -> None:
    with pytest.raises(UserError, match="values"):
        bootstrap_interval(values)


def test_other_bad_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="pairs"):
        paired_randomisation([0.1, 0.2], [0.1])
    with pytest.raises(UserError, match="between 0 and 1"):
        holm([0.2, 1.2])
    with pytest.raises(UserError, match="level"):
        bootstrap_interval([0.1], level=95)
    with pytest.raises(UserError, match="draws"):
        bootstrap_interval([0.1], draws=0)
