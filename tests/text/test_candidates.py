"""Lists of numbers, and candidates that go to disk, come back, and meet runs by ids."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retromae.core.errors import UserError
from retromae.core.ranking import Run, read_trec, write_trec
from retromae.text.candidates import Candidates
from retromae.text.pairs import Lists, Pairs
from text.pair_data import write_beir

ROWS = st.lists(st.lists(st.integers(0, 3), max_size=4, unique=True), min_size=2, max_size=2)
SCORE = st.floats(-100, 100, width=32)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """Two queries (q2, q1) and four passages (d1 … d4)."""
    folder = tmp_path_factory.mktemp("pairs")
    return Pairs.open(write_beir(folder / "mini"), cache=folder / "cache")


def some(rows: list[list[int]]) -> Candidates:
    lists = Lists.from_lists(rows)
    return Candidates(lists, np.linspace(1, -1, len(lists.members), dtype=np.float32), {"made": "by hand"})


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=8))
def test_lists_give_back_what_they_were_made_of(rows: list[list[int]]) -> None:
    lists = Lists.from_lists(rows)
    assert [row.tolist() for row in lists] == rows
    assert lists.starts[0] == 0 and lists.starts[-1] == len(lists.members) == lists.lengths.sum()
    assert lists.lengths.tolist() == [len(row) for row in rows]
    assert lists.owners.tolist() == [number for number, row in enumerate(rows) for _ in row]
    assert (lists.starts.dtype, lists.members.dtype, lists.owners.dtype) == (np.int64, np.int32, np.int32)
    for outside in (-1, len(rows)):
        with pytest.raises(IndexError):
            lists[outside]


@pytest.mark.parametrize("starts", [[], [1, 2], [0, 2, 1, 2], [0, 1]])
def test_lists_whose_parts_do_not_fit_are_refused(starts: list[int]) -> None:
    with pytest.raises(ValueError, match="go up from 0"):
        Lists(np.array(starts, dtype=np.int64), np.zeros(2, dtype=np.int32))


def test_empty_lists() -> None:
    assert [row.tolist() for row in Lists.empty(3)] == [[], [], []]


@given(ROWS)
@settings(max_examples=25, deadline=None)
def test_what_is_written_comes_back(pairs: Pairs, rows: list[list[int]]) -> None:
    candidates = some(rows)
    with TemporaryDirectory() as folder:
        for _ in range(2):  # the second time in its own place
            candidates.write(Path(folder, "negatives"), pairs)
        back = Candidates.open(Path(folder, "negatives"), pairs)
        assert [row.tolist() for row in back.lists] == rows
        np.testing.assert_array_equal(back.scores, candidates.scores)
        assert back.scores.dtype == np.float32 and back.lists.members.dtype == np.int32
        assert back.facts == Candidates.facts_of(Path(folder, "negatives")) == {"made": "by hand"}


@given(st.lists(st.dictionaries(st.integers(0, 3), SCORE, max_size=4), min_size=2, max_size=2))
@settings(max_examples=25, deadline=None)
def test_a_run_and_back(pairs: Pairs, found: list[dict[int, float]]) -> None:
    named = zip(("q1", "q2"), found, strict=True)
    run = Run.from_dict({query: {f"d{n + 1}": score for n, score in row.items()} for query, row in named})
    candidates = Candidates.from_run(run, pairs)
    assert len(candidates) == len(pairs)
    assert candidates.to_run(pairs) == run
    for query, row in zip(pairs.queries.ids, candidates.lists, strict=True):
        assert pairs.passages.ids_of(row) == run[query].ids  # best first
    again = Candidates.from_run(run, pairs, queries=pairs.queries.numbers_of(list(run)))
    assert again.to_run(pairs) == run


@pytest.mark.parametrize("name", ["some.trec", "some.run.gz", "some.txt"])
def test_a_trec_file(pairs: Pairs, tmp_path: Path, name: str) -> None:
    write_trec(tmp_path / name, Run.from_dict({"q1": {"d3": 0.5, "d4": 2}, "q9": {"unknown": 1}}))
    candidates = Candidates.open(tmp_path / name, pairs)
    assert [pairs.passages.ids_of(row) for row in candidates.lists] == [[], ["d4", "d3"]]
    assert candidates.facts == {"run": str(tmp_path / name), "unknown_queries": 1}
    write_trec(tmp_path / "back.trec.gz", candidates.to_run(pairs))
    assert read_trec(tmp_path / "back.trec.gz") == Run.from_dict({"q1": {"d3": 0.5, "d4": 2}})


def test_an_empty_run(pairs: Pairs) -> None:
    assert Candidates.from_run(Run.from_dict({}), pairs).lists.lengths.tolist() == [0, 0]


def test_passages_that_the_data_lacks_are_refused(pairs: Pairs) -> None:
    with pytest.raises(UserError, match="names the passage 'd9', which is not in the data"):
        Candidates.from_run(Run.from_dict({"q1": {"d1": 1, "d9": 2}}), pairs)


def test_broken_packed_runs_are_refused(pairs: Pairs, tmp_path: Path) -> None:
    path = tmp_path / "some.trec.gz"
    path.write_text("q1 Q0 d1 1 1.0 x\n")
    with pytest.raises(UserError, match="cannot read"):
        Candidates.open(path, pairs)
    write_trec(path, Run.from_dict({"q1": {"d1": 1.0}}))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot read"):
        Candidates.open(path, pairs)


def test_candidates_of_other_data_are_refused(pairs: Pairs, tmp_path: Path) -> None:
    other = Pairs.open(write_beir(tmp_path / "other", "q2\td2\t1\nq1\td1\t1\n"), cache=tmp_path / "cache")
    some([[0], [1, 2]]).write(tmp_path / "negatives", pairs)
    with pytest.raises(UserError, match="belongs to other data"):
        Candidates.open(tmp_path / "negatives", other)


def test_folders_that_are_none(pairs: Pairs, tmp_path: Path) -> None:
    (tmp_path / "dear").mkdir()
    (tmp_path / "dear" / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="holds something else"):
        some([[0], [1]]).write(tmp_path / "dear", pairs)
    assert (tmp_path / "dear" / "thesis.txt").is_file()
    for path in (tmp_path / "dear", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="holds no candidates"):
            Candidates.open(path, pairs)
        with pytest.raises(UserError, match="holds no candidates"):
            Candidates.facts_of(path)
    folder = tmp_path / "negatives"
    some([[0], [1]]).write(folder, pairs)
    (folder / "candidates.arrow").write_bytes(b"half")
    with pytest.raises(UserError, match="damaged"):
        Candidates.open(folder, pairs)
    (folder / "candidates.arrow").unlink()
    with pytest.raises(UserError, match="damaged"):
        Candidates.open(folder, pairs)
    some([[2], [3]]).write(folder, pairs)  # in the place of what is known to be candidates
    assert Candidates.open(folder, pairs).lists.members.tolist() == [2, 3]


def test_candidates_that_do_not_fit_are_a_mistake_of_ours(pairs: Pairs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scores for"):
        Candidates(Lists.from_lists([[1]]), np.empty(0, dtype=np.float32), {})
    for rows in ([[0]], [[0], [4]]):
        with pytest.raises(ValueError, match="are not of the pairs"):
            some(rows).write(tmp_path / "negatives", pairs)
