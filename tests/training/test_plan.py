"""Which texts train together: no contradictions, nothing forgotten, the same every time."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from retromae.core.errors import UserError
from retromae.text.pairs import Lists
from retromae.training.plan import NegativeDraws, QueryPlan

PASSAGES = 40


@st.composite
def answers(draw: st.DrawFn) -> Lists:
    """Of 12 to 30 queries, each with one to three of the passages; some passages answer many."""
    rows = st.lists(st.integers(0, PASSAGES - 1), min_size=1, max_size=3, unique=True)
    return Lists.from_lists(draw(st.lists(rows, min_size=12, max_size=30)))


def plan_of(lists: Lists, size: int = 4, seed: int = 3) -> QueryPlan:
    return QueryPlan(lists, np.arange(len(lists), dtype=np.int32), size, seed)


@limits(max_examples=60, deadline=None)
@given(answers(), st.integers(0, 5))
def test_no_passage_of_a_batch_answers_another_query(lists: Lists, seed: int) -> None:
    plan = plan_of(lists, seed=seed)
    try:
        batches = [plan.batch(number) for number in range(12)]
    except UserError:
        assert len(set(lists.members.tolist())) < 12  # few passages answer everything: rightly refused
        return
    for batch in batches:
        for row, (query, positive) in enumerate(zip(batch.queries.tolist(), batch.positives.tolist())):
            assert positive in lists[query]
            others = np.delete(batch.queries, row)
            assert all(positive not in lists[int(other)] for other in others)


def test_every_pass_has_every_query_once_where_nothing_contradicts() -> None:
    lists = Lists.from_lists([[number] for number in range(24)])
    plan = plan_of(lists)
    passes = [np.concatenate([plan.batch(b).queries for b in range(p * 6, p * 6 + 6)]) for p in range(3)]
    assert all(sorted(found.tolist()) == list(range(24)) for found in passes)
    assert not np.array_equal(passes[0], passes[1])
    assert plan.left_out == 0


def test_answers_are_drawn_anew_in_every_pass() -> None:
    lists = Lists.from_lists([[3 * number, 3 * number + 1, 3 * number + 2] for number in range(8)])
    plan = plan_of(lists, size=8)
    seen = {int(p) for number in range(30) for p in plan.batch(number).positives}
    assert seen == set(range(24))


def test_a_plan_is_a_pure_function_and_travels_to_other_processes() -> None:
    lists = Lists.from_lists([[number % 9] for number in range(30)])
    plan = plan_of(lists)
    far = plan.batch(7)
    again = pickle.loads(pickle.dumps(plan)).batch(7)
    assert all(np.array_equal(a, b) for a, b in zip(far, again))
    assert not np.array_equal(plan_of(lists, seed=4).batch(7).queries, far.queries)


def test_a_batch_that_cannot_be_made_is_refused_with_what_can() -> None:
    lists = Lists.from_lists([[0], [0], [1], [1], [0]])
    with pytest.raises(UserError, match="lower the batch size to 2 or less"):
        plan_of(lists, size=3).batch(0)
    with pytest.raises(UserError, match="cannot be filled from 5"):
        plan_of(lists, size=6)


@limits(max_examples=60, deadline=None)
@given(answers(), st.integers(1, 6), st.integers(0, 3))
def test_negatives_answer_no_query_of_their_batch(lists: Lists, window: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = Lists.from_lists([rng.permutation(PASSAGES)[: rng.integers(0, 9)] for _ in range(len(lists))])
    plan = plan_of(lists, size=3, seed=seed)
    draws = NegativeDraws(plan, pool, number=2, window=window, passages=PASSAGES, repeat=False)
    try:
        batch = plan.batch(2)
    except UserError:
        return
    drawn = draws.draw(batch)
    assert drawn.shape == (3, 2)
    right = {int(p) for query in batch.queries for p in lists[int(query)]}
    assert right.isdisjoint(drawn.ravel().tolist())
    assert len(set(drawn.ravel().tolist())) == 6  # none twice
    from_pool = sum(int(n) in pool[int(q)][:window] for q, row in zip(batch.queries, drawn) for n in row)
    assert draws.drawn == 6 and from_pool >= 6 - draws.filled
    again = NegativeDraws(plan, pool, number=2, window=window, passages=PASSAGES, repeat=False)
    assert np.array_equal(again.draw(batch), drawn)


def test_repeat_stays_among_the_candidates() -> None:
    lists = Lists.from_lists([[number] for number in range(6)])
    pool = Lists.from_lists([[10 + number, 20 + number] for number in range(6)])
    plan = plan_of(lists, size=3)
    draws = NegativeDraws(plan, pool, number=5, window=10, passages=PASSAGES, repeat=True)
    batch = plan.batch(0)
    for query, row in zip(batch.queries.tolist(), draws.draw(batch)):
        assert set(row.tolist()) == set(pool[query].tolist())


def test_too_few_passages_are_refused() -> None:
    lists = Lists.from_lists([[number] for number in range(6)])
    plan = plan_of(lists, size=3)
    empty = Lists.from_lists([[]] * 6)
    draws = NegativeDraws(plan, empty, number=4, window=10, passages=6, repeat=False)
    with pytest.raises(UserError, match="too few for 4 negatives"):
        draws.draw(plan.batch(0))
