from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retromae.core.errors import UserError
from retromae.core.ranking import Run, id_ranks, read_trec, top_k, write_trec

names = st.text("abcxyz0189é", min_size=1, max_size=4)
few_scores = st.sampled_from([-1.5, 0.0, 0.1, 0.30000001, 2.0])
runs = st.dictionaries(names, st.dictionaries(names, few_scores, max_size=8), max_size=5)


def expected(found: dict[str, float]) -> list[str]:
    return [document for _, document in sorted((-score, document) for document, score in found.items())]


@settings(max_examples=80, deadline=None)
@given(runs)
def test_a_run_is_sorted_by_score_and_then_by_id(run: dict[str, dict[str, float]]) -> None:
    made = Run.from_dict(run)
    assert list(made) == list(run)
    for query, found in run.items():
        assert made[query].ids == expected(found)
        assert made[query].scores.tolist() == [found[document] for document in expected(found)]


@settings(max_examples=40, deadline=None)
@given(runs, st.randoms(use_true_random=False))
def test_insertion_order_does_not_matter(run: dict[str, dict[str, float]], random: object) -> None:
    items = [(query, list(found.items())) for query, found in run.items()]
    random.shuffle(items)  # type: ignore[attr-defined]
    for _, found in items:
        random.shuffle(found)  # type: ignore[attr-defined]
    assert Run.from_dict({query: dict(found) for query, found in items}) == Run.from_dict(run)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(few_scores, min_size=6, max_size=6), min_size=1, max_size=3),
    st.permutations(["d1", "d10", "d2", "é", "a", "Z"]),
    st.integers(1, 8),
)
def test_top_k_equals_sorting_everything(scores: list[list[float]], ids: list[str], k: int) -> None:
    matrix = np.array(scores, dtype=np.float32)
    places, values = top_k(matrix, ids, k)
    run = Run.from_top_k([str(row) for row in range(len(scores))], places, values, ids)
    for row, line in enumerate(matrix.tolist()):
        wanted = expected(dict(zip(ids, line)))[:k]
        assert [ids[place] for place in places[row]] == wanted
        assert run[str(row)].ids == wanted
        assert values[row].tolist() == [line[ids.index(document)] for document in wanted]


def test_top_k_takes_ranks_made_once() -> None:
    ids = ["b", "c", "a"]
    scores = np.ones((1, 3))
    assert id_ranks(ids).tolist() == [1, 2, 0]
    assert top_k(scores, id_ranks(ids), 2)[0].tolist() == top_k(scores, ids, 2)[0].tolist() == [[2, 0]]


def test_top_k_of_nothing() -> None:
    assert top_k(np.empty((2, 0)), [], 5)[0].shape == (2, 0)


def test_padding_of_an_index_is_no_result() -> None:
    run = Run.from_top_k(["q", "r"], [[1, -1], [-1, -1]], [[0.5, -np.inf], [0, 0]], ["x", "y"])
    assert run["q"].ids == ["y"]
    assert run["r"].ids == []


def test_cut_and_without_self() -> None:
    run = Run.from_dict({"a": {"a": 3.0, "b": 2.0, "c": 1.0}, "z": {"b": 1.0}, "e": {}})
    assert run.cut(2)["a"].ids == ["a", "b"]
    without = run.without_self()
    assert without["a"].ids == ["b", "c"]
    assert without["z"].ids == ["b"]
    assert list(without) == ["a", "z", "e"]


@settings(max_examples=40, deadline=None)
@given(runs)
def test_trec_files_give_back_the_run(
    tmp_path_factory: pytest.TempPathFactory, run: dict[str, dict[str, float]]
) -> None:
    path = tmp_path_factory.mktemp("trec") / "run.trec"
    write_trec(path, Run.from_dict(run), "mine")
    assert read_trec(path) == Run.from_dict({query: found for query, found in run.items() if found})


def test_a_trec_file_looks_like_one(tmp_path: Path) -> None:
    write_trec(tmp_path / "run", Run.from_dict({"q1": {"d2": 0.5, "d1": 0.5, "d3": 7}}), "bm25")
    assert (tmp_path / "run").read_text() == "".join(
        ["q1 Q0 d3 1 7.0 bm25\n", "q1 Q0 d1 2 0.5 bm25\n", "q1 Q0 d2 3 0.5 bm25\n"]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_rank_column_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q Q0 worse 1 0.1 t\nq\tQ0  better 2 0.2 t\n\n")
    assert read_trec(tmp_path / "run")["q"].ids == ["better", "worse"]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q Q0 d 1 0.1 t\nq Q0 d 1 high t\n")
    with pytest.raises(UserError, match="line 2"):
        read_trec(tmp_path / "run")
    (tmp_path / "run").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        read_trec(tmp_path / "run")
    with pytest.raises(UserError, match="cannot read"):
        read_trec(tmp_path / "nowhere")


def test_an_id_with_a_space_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="white space"):
        write_trec(tmp_path / "run", Run.from_dict({"q": {"a b": 1.0}}))
    with pytest.raises(UserError, match="tag"):
        write_trec(tmp_path / "run", Run.from_dict({}), "two words")
    assert not list(tmp_path.iterdir())


def test_bad_runs_are_refused() -> None:
    with pytest.raises(UserError, match=r"'q'.*NaN"):
        Run.from_dict({"p": {"d": 1.0}, "q": {"d": float("nan")}})
    with pytest.raises(UserError, match="'q' has document 'd' twice"):
        Run.from_top_k(["q"], [[0, 0]], [[1.0, 2.0]], ["d"])
    with pytest.raises(UserError, match="query id twice"):
        Run.from_top_k(["q", "q"], [[0], [0]], [[1.0], [2.0]], ["d"])
    with pytest.raises(UserError, match=r"row 1.*NaN"):
        top_k(np.array([[1.0, 2.0], [np.nan, 0.0]]), ["a", "b"], 1)
    with pytest.raises(UserError, match="k must"):
        top_k(np.ones((1, 2)), ["a", "b"], 0)
