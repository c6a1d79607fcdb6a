from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retromae.core.errors import UserError
from retromae.core.ranking import Run
from retromae.retrieval.fusion import reciprocal_rank, weighted

FIRST = Run.from_dict({"q": {"a": 9.0, "b": 5.0, "c": 1.0}, "only": {"x": 2.0}})
SECOND = Run.from_dict({"q": {"c": 0.9, "d": 0.8}, "none": {}})

runs = st.dictionaries(
    st.sampled_from("pqr"),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(-5, 5), max_size=6),
    max_size=3,
).map(Run.from_dict)


def scores(run: Run, query: str) -> dict[str, float]:
    return dict(zip(run[query].ids, run[query].scores.tolist()))


def test_reciprocal_rank_by_hand() -> None:
    fused = reciprocal_rank([FIRST, SECOND])
    wanted = {"c": 1 / 63 + 1 / 61, "a": 1 / 61, "b": 1 / 62, "d": 1 / 62}
    assert scores(fused, "q") == pytest.approx(wanted)
    assert fused["q"].ids == ["c", "a", "b", "d"]
    assert fused["only"].ids == ["x"]
    assert fused["none"].ids == []
    assert reciprocal_rank([FIRST, SECOND], depth=2)["q"].ids == ["c", "a"]


def test_min_max_by_hand() -> None:
    fused = weighted([FIRST, SECOND], [1, 0.5])
    # FIRST over {a, b, c, d}: 1, ½, 0, 0.  SECOND: a and b get its lowest score, 0.8: 0, 0, 1, 0.
    assert scores(fused, "q") == pytest.approx({"a": 1.0, "b": 0.5, "c": 0.5, "d": 0.0})
    assert fused["q"].ids == ["a", "b", "c", "d"]


def test_z_scores_by_hand() -> None:
    fused = weighted([SECOND], [2], normalisation="z")
    assert scores(fused, "q") == pytest.approx({"c": 2.0, "d": -2.0})


def test_a_run_that_says_nothing_adds_nothing() -> None:
    flat = Run.from_dict({"q": {"a": 3.0, "b": 3.0, "c": 3.0}})
    for normalisation in ("min-max", "z"):
        alone = weighted([FIRST], [1], normalisation=normalisation)
        assert weighted([FIRST, flat], [1, 5], normalisation=normalisation)["q"].ids == alone["q"].ids


@settings(max_examples=60, deadline=None)
@given(st.lists(runs, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_the_order_of_the_runs_does_not_matter(given_runs: list[Run], random: object) -> None:
    shuffled = list(given_runs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = reciprocal_rank(given_runs), reciprocal_rank(shuffled)
    assert set(one) == set(other)
    for query in one:
        assert scores(one, query) == pytest.approx(scores(other, query))


@settings(max_examples=60, deadline=None)
@given(runs, st.floats(0.125, 8), st.integers(-3, 3))
def test_scale_and_shift_of_a_run_do_not_matter(run: Run, scale: float, shift: int) -> None:
    moved = Run.from_dict({q: {d: s * scale + shift for d, s in scores(run, q).items()} for q in run})
    for normalisation in ("min-max", "z"):
        before, after = (weighted([r], [1], normalisation=normalisation) for r in (run, moved))
        for query in run:
            assert scores(after, query) == pytest.approx(scores(before, query), abs=1e-9)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="no run"):
        reciprocal_rank([])
    with pytest.raises(UserError, match="as many weights"):
        weighted([FIRST, SECOND], [1])
    with pytest.raises(UserError, match="normalisation"):
        weighted([FIRST], [1], normalisation="softmax")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="negative"):
        reciprocal_rank([FIRST], k=-1)
