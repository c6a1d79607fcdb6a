"""A budget says the same whatever its spelling, and is spent to the nearest step."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retromae.app.compare.budget import Budget
from retromae.core.errors import UserError
from retromae.training.row_plan import Spent


@pytest.mark.parametrize(
    ("text", "amount", "kind"),
    [
        ("20M-tokens", 20e6, "tokens"),
        ("3e15-flops", 3e15, "flops"),
        ("1.5P-flops", 1.5e15, "flops"),
        ("30-minutes", 30, "minutes"),
        ("0.5-minute", 0.5, "minutes"),
        ("1-step", 1, "steps"),
        ("500-steps", 500, "steps"),
        ("8-epochs", 8, "epochs"),
        ("20k-tokens", 20e3, "tokens"),
    ],
)
def test_spellings(text: str, amount: float, kind: str) -> None:
    assert Budget.parse(text) == Budget(amount, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *("", "20M", "tokens", "20M tokens", "-5-steps", "0-steps", "0-tokens", "1.5-steps", "2.5-epochs"),
        *("1e999-flops", "20M-words", "nan-flops", "20m-tokens"),
    ],
)
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="budget"):
        Budget.parse(text)


amounts = st.floats(min_value=1e-3, max_value=1e30, allow_nan=False)


@given(amount=amounts, kind=st.sampled_from(["tokens", "flops", "minutes"]))
def test_what_is_written_is_read_back(amount: float, kind: str) -> None:
    budget = Budget(amount, kind)  # type: ignore[arg-type]
    assert Budget.parse(str(budget)) == budget


@given(st.integers(1, 10**12))
def test_steps_are_read_back_and_meant_literally(number: int) -> None:
    budget = Budget(float(number), "steps")
    assert Budget.parse(str(budget)) == budget
    assert budget.of_spending(iter(())) == number


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.floats(0.01, 20_000))
def test_tokens_are_spent_to_the_nearest_step(sizes: list[int], amount: float) -> None:
    """Against all numbers of steps tried in turn."""
    steps = Budget(amount, "tokens").of_spending(Spent(size, 0.0) for size in itertools.cycle(sizes))
    assert steps is not None and steps >= 1
    sums = list(itertools.accumulate(itertools.islice(itertools.cycle(sizes), steps + 1)))
    apart = [abs(total - amount) for total in sums]
    assert apart[steps - 1] <= apart[steps]
    assert steps == 1 or apart[steps - 1] <= apart[steps - 2]


def test_time_alone_says_no_steps() -> None:
    assert Budget.parse("30-minutes").of_spending(iter(())) is None


def test_a_step_that_takes_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="never be spent"):
        Budget.parse("5-flops").of_spending(itertools.repeat(Spent(7, 0.0)))
