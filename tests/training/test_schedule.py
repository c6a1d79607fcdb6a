"""How far a run is, and the learning rate that follows from it."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retromae.training.schedule import Clock, Shape
from retromae.training.session import measured_every


def by_steps(total: int, shape: Shape = "linear", warmup: float = 0.1) -> Clock:
    return Clock(total_steps=total, minutes=None, shape=shape, warmup_ratio=warmup)


@given(st.integers(1, 500), st.floats(0.0, 0.9))
def test_a_run_by_steps_never_looks_at_the_time(total: int, warmup: float) -> None:
    now, later = by_steps(total, warmup=warmup), by_steps(total, warmup=warmup)
    later.start(already=1e6)
    for step in range(total):
        assert now.progress(step) == later.progress(step) == step / total
        assert now.learning_rate(step) == later.learning_rate(step)
    assert now.progress(total) == 1.0 and not later.out_of_time


@given(st.integers(2, 300), st.floats(0.0, 0.9), st.sampled_from(["linear", "cosine"]))
def test_the_rate_rises_then_falls_and_is_never_nothing(total: int, warmup: float, shape: Shape) -> None:
    clock = by_steps(total, shape, warmup)
    rates = [clock.learning_rate(step) for step in range(total)]
    assert all(0.0 < rate <= 1.0 for rate in rates)
    rising = [step for step in range(total) if (step + 0.5) / total < warmup]
    assert all(rates[step] == pytest.approx((step + 0.5) / total / warmup) for step in rising)
    falling = rates[len(rising) :]
    assert all(a > b for a, b in itertools.pairwise(falling))


def test_shapes() -> None:
    """Warm-up over a tenth of 20 steps; the rate of step 10 is that of 10.5 steps: half of the rest, and a bit."""
    rest = (10.5 / 20 - 0.1) / 0.9
    assert by_steps(20).learning_rate(10) == pytest.approx(1 - rest)
    assert by_steps(20, "cosine").learning_rate(10) == pytest.approx(0.5 + 0.5 * math.cos(math.pi * rest))
    assert by_steps(20, "constant").learning_rate(10) == 1.0
    assert by_steps(20, "constant").learning_rate(0) == pytest.approx(0.5 / 20 / 0.1)


def test_minutes_end_a_run_and_earlier_sessions_count() -> None:
    clock = Clock(total_steps=None, minutes=10.0)
    assert clock.progress(1_000_000) < 0.01 and not clock.out_of_time
    clock.start(already=300.0)
    assert clock.progress(0) == pytest.approx(0.5, abs=0.01)
    assert clock.learning_rate(0) == pytest.approx(0.5 / 0.9, abs=0.02)
    assert clock.seconds_left(7) == pytest.approx(300, rel=0.05)
    clock.start(already=601.0)
    assert clock.out_of_time and clock.progress(0) == 1.0


def test_whichever_end_is_nearer_counts() -> None:
    clock = Clock(total_steps=100, minutes=10.0)
    clock.start(already=60.0)
    assert clock.progress(50) == 0.5
    assert clock.progress(2) == pytest.approx(0.1, abs=0.01)


def test_a_run_needs_an_end() -> None:
    with pytest.raises(ValueError, match="by steps or by minutes"):
        Clock(total_steps=None, minutes=None)


@given(st.integers(1, 10_000), st.integers(1, 20), st.floats(0.0, 1e4))
def test_measuring_takes_half_as_long_as_training_at_most(steps: int, times: int, cost: float) -> None:
    """Forward alone a measurement is a third of the work; the first and the last one are always taken."""
    every = measured_every(steps, times, cost)
    assert every >= max(1, steps // times)
    between = steps / every
    assert between * cost / 3 <= steps / 2 + 1e-6
