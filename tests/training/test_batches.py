"""Batches: every row once, little padding, balanced, and the same whatever the number of processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retromae.training.batches import BatchPlan, Padding, RankSampler, pad


def padding(max_length: int = 512, multiple: int = 1) -> Padding:
    return Padding(cls_id=2, sep_id=3, pad_id=0, max_length=max_length, multiple=multiple)


def plan(lengths: list[int] | np.ndarray, budget: int = 1000, **settings: Any) -> BatchPlan:
    lengths = np.asarray(lengths, dtype=np.int32)
    rows = np.arange(len(lengths), dtype=np.int64) * 10  # row numbers need not be positions
    given: dict[str, Any] = {"padding": padding(), "seed": 0} | settings
    return BatchPlan(rows, lengths, tokens_per_batch=budget, **given)


@given(
    lengths=st.lists(st.integers(0, 600), min_size=1, max_size=200),
    budget=st.integers(1, 5000),
    multiple=st.sampled_from([1, 8, 64]),
    epoch=st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_every_row_once_and_under_the_budget(
    lengths: list[int], budget: int, multiple: int, epoch: int
) -> None:
    plans = plan(lengths, budget, padding=padding(multiple=multiple))
    batches = plans.epoch(epoch)
    assert sorted(np.concatenate(batches).tolist()) == plans.rows.tolist()
    for batch in batches:
        widest = int(plans.padding.length(plans.lengths[batch // 10]).max())
        assert len(batch) == 1 or len(batch) * widest <= budget


def msmarco_like(n: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.clip(generator.gamma(6.0, 12.5, n), 14, 148).astype(np.int32)


@pytest.mark.parametrize(
    ("lengths", "rows"), [(msmarco_like(20_000), 32), (np.random.default_rng(1).integers(14, 511, 8000), 16)]
)
def test_waste_stays_under_three_percent(lengths: np.ndarray, rows: int) -> None:
    plans = plan(lengths, budget=round(rows * (lengths.mean() + 2)))
    assert plans.waste() < 0.03
    mean_rows = len(lengths) / len(plans.epoch(0))
    assert 0.8 * rows < mean_rows < 1.25 * rows


def test_epochs_and_seeds_differ_and_repeat() -> None:
    plans = plan(msmarco_like(500))
    first, second, again = plans.epoch(0), plans.epoch(1), plans.epoch(0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not all(np.array_equal(a, b) for a, b in zip(first, second))
    other = plan(msmarco_like(500), seed=1).epoch(0)
    assert not all(np.array_equal(a, b) for a, b in zip(first, other))


def test_lengths_are_mixed_over_the_epoch() -> None:
    """Batches of one length, but not all short ones first."""
    plans = plan(msmarco_like(5000), budget=2500)
    widths = np.asarray([plans.lengths[batch // 10].mean() for batch in plans.epoch(0)])
    half = len(widths) // 2
    assert abs(widths[:half].mean() - widths[half:].mean()) < 8


@pytest.mark.parametrize("epochs", [1, 3])
def test_steps_can_be_named_without_those_before(epochs: int) -> None:
    plans = plan(msmarco_like(700), batches_per_step=3)
    steps = list(plans.steps(0, epochs))
    assert len(steps) == plans.steps_in(epochs)
    for start in (1, len(steps) // 2, len(steps) - 1):
        rest = list(plans.steps(start, epochs))
        assert len(rest) == len(steps) - start
        for mine, theirs in zip(rest, steps[start:]):
            assert [(m.epoch, m.rows.tolist()) for m in mine] == [(m.epoch, m.rows.tolist()) for m in theirs]


@pytest.mark.parametrize(("n", "world"), [(700, 4), (64, 8), (5, 4)])
def test_processes_share_out_a_step(n: int, world: int) -> None:
    """All processes together do what one process does that accumulates, and each has the same number of batches."""
    plans = plan(msmarco_like(n), budget=500, batches_per_step=world)
    total = plans.steps_in(2)
    shares = [list(RankSampler(plans, rank, world, 0, total, 2)) for rank in range(world)]
    alone = list(RankSampler(plans, 0, 1, 0, total, 2))
    assert {len(share) for share in shares} == {total}
    for step in range(total):
        together = sorted(tuple(share[step].rows) for share in shares)
        assert together == sorted(tuple(m.rows) for m in alone[step * world : (step + 1) * world])
    seen = np.concatenate([m.rows for m in alone])
    assert sorted(seen.tolist()) == sorted(plans.rows.tolist() * 2)


def test_processes_are_balanced() -> None:
    plans = plan(msmarco_like(4000), budget=2500, batches_per_step=4)
    tokens = np.zeros(4)
    for step in plans.steps(0, 1):
        for rank in range(4):
            rows = step[rank].rows
            tokens[rank] += len(rows) * plans.padding.length(plans.lengths[rows // 10]).max()
    assert tokens.max() / tokens.min() < 1.03


def test_the_sampler_stops_at_the_last_step() -> None:
    plans = plan(msmarco_like(300), batches_per_step=2)
    endless = list(RankSampler(plans, 0, 1, 5, 40, None))
    assert len(endless) == (40 - 5) * 2
    assert endless[-1].epoch > 0


@given(
    rows=st.lists(st.lists(st.integers(5, 99), max_size=30), min_size=1, max_size=6),
    multiple=st.sampled_from([1, 8]),
)
@settings(max_examples=100, deadline=None)
def test_padding_puts_rows_between_special_tokens(rows: list[list[int]], multiple: int) -> None:
    rules = padding(max_length=16, multiple=multiple)
    flat = np.asarray([token for row in rows for token in row], dtype=np.int32)
    lengths = np.asarray([len(row) for row in rows])
    token_ids, mask = pad(flat, lengths, rules)
    for b, row in enumerate(rows):
        kept = [2, *row[:14], 3]
        assert token_ids[b].tolist() == kept + [0] * (token_ids.shape[1] - len(kept))
        assert mask[b].sum() == len(kept)
        assert mask[b, : len(kept)].all()
    assert token_ids.shape[1] % multiple == 0 or token_ids.shape[1] == 16
