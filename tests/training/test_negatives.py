"""Mining: what is found, what is dropped as perhaps right, and negatives that follow the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from retromae.app.verbs import command_of
from retromae.core.errors import UserError
from retromae.core.ranking import read_trec
from retromae.retrieval.encoder import Encoder
from retromae.text.candidates import Candidates
from retromae.text.pairs import Lists, Pairs
from retromae.training.negatives import Found, MineConfig, keep, mine, mine_bm25, reject, turnover
from training.finetuning import retromae, write_collection


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    folder = tmp_path_factory.mktemp("mining")
    return Pairs.open(write_collection(folder / "data"), cache=folder / "cache")


def brute_force(encoder: Encoder, pairs: Pairs, config: MineConfig) -> list[list[int]]:
    """Every query against every passage, and the rules in words."""
    passages = encoder.encode_passages([p.text for p in pairs.passages], [p.title for p in pairs.passages])
    queries = encoder.encode_queries(pairs.queries.texts(range(len(pairs))))
    scores = queries.dense.astype(np.float64) @ passages.dense.T.astype(np.float64)
    if queries.lexical is not None and passages.lexical is not None:
        scores += (queries.lexical @ passages.lexical.T).toarray()
    ids = pairs.passages.ids
    found = []
    for query in range(len(pairs)):
        right = set(pairs.positives[query].tolist())
        answer = max(scores[query][p] for p in right)
        ranking = sorted(range(len(ids)), key=lambda p: (-np.float32(scores[query][p]), ids[p]))
        kept = [p for p in ranking if p not in right][config.skip : config.skip + config.depth]
        if config.absolute_margin is not None:
            kept = [p for p in kept if scores[query][p] <= answer - config.absolute_margin]
        if config.relative_margin is not None:
            kept = [p for p in kept if scores[query][p] <= answer - config.relative_margin * abs(answer)]
        found.append(kept)
    return found


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"absolute_margin": 0.2},
        {"relative_margin": 0.03},
        {"skip": 3, "depth": 4, "relative_margin": 0.0},
    ],
)
@pytest.mark.parametrize("terms", [None, 6])
def test_mined_is_what_brute_force_finds(
    tiny_folder: Callable[[str], Path],
    pairs: Pairs,
    tmp_path: Path,
    rules: dict[str, float],
    terms: int | None,
) -> None:
    config = MineConfig(**{"depth": 8, **rules})  # type: ignore[arg-type]
    pooling = None if terms else "cls"
    encoder = Encoder.open(tiny_folder("bert"), pooling=pooling, lexical_terms=terms, device="cpu")
    found = mine(encoder, pairs, tmp_path / "work", config)
    assert [row.tolist() for row in found.lists] == brute_force(encoder, pairs, config)
    assert not (tmp_path / "work").exists()
    assert found.facts["dropped"]["known answers"] > 0


def test_bm25_finds_no_answer(pairs: Pairs) -> None:
    found = mine_bm25(pairs, MineConfig(depth=5))
    assert (found.lists.lengths > 0).all()
    for row, wrong in enumerate(found.lists):
        assert not np.isin(wrong, pairs.positives[row]).any()


@limits(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 2.0))
def test_teachers_rejection_in_words(seed: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    lists = Lists.from_lists([rng.permutation(20)[: rng.integers(0, 6)] for _ in range(7)])
    scores = rng.normal(size=len(lists.members)).astype(np.float32)
    answers = rng.normal(size=7).astype(np.float32)
    candidates = Candidates(lists, np.arange(len(scores), dtype=np.float32), {})
    kept = reject(candidates, scores, answers, margin)
    for query in range(7):
        place = int(lists.starts[query])
        wanted = [
            int(p)
            for i, p in enumerate(lists[query])
            if scores[place + i] <= answers[query] - np.float32(margin)
        ]
        assert kept.lists[query].tolist() == wanted
    assert kept.facts["dropped"]["teacher"] == len(scores) - len(kept.scores)


def test_an_unknown_answer_drops_nothing(pairs: Pairs) -> None:
    size = len(pairs)
    places = np.tile(np.arange(6, dtype=np.int32), (size, 1))
    found = Found(places, np.ones((size, 6), np.float32), np.full(size, np.nan, np.float32))
    kept = keep(found, pairs, MineConfig(depth=6, absolute_margin=100.0))
    assert all(len(row) >= 4 for row in kept.lists)


def test_turnover_counts_what_is_new() -> None:
    before = Lists.from_lists([[1, 2, 3, 4], [5, 6], []])
    now = Lists.from_lists([[2, 1, 9, 9], [5, 6], [7]])
    assert turnover(before, now, window=2) == 1 / 5  # of 2 + 2 + 1 candidates, the last
    assert turnover(before, before, window=4) == 0.0


def test_the_command_line_mines_and_says_what_it_dropped(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    data, out = write_collection(tmp_path / "data"), tmp_path / "negatives"
    model, cache = tiny_folder("bert"), tmp_path / "cache"
    arguments = ("mine", model, "--pairs", data, "--out", out, "--pooling", "cls")
    more = ("--depth", 10, "--relative_margin", 0.0, "--trec", tmp_path / "run.trec")
    done = retromae(*arguments, *more, cache=cache)
    assert done.returncode == 0, done.stderr
    assert "dropped, known answers" in done.stdout and "relative margin" in done.stdout
    pairs = Pairs.open(data, cache=cache)
    found = Candidates.open(out, pairs)
    assert 0 < int(found.lists.lengths.max()) <= 10
    assert "Are these really wrong?" in (out / "sample.md").read_text()
    assert found.facts["relative_margin"] == 0.0
    run = read_trec(tmp_path / "run.trec")
    first = next(iter(run))
    number = int(pairs.queries.numbers_of([first])[0])
    assert pairs.passages.ids_of(found.lists[number]) == run[first].ids
    with pytest.raises(UserError, match="exists already"):
        command_of("mine").main([*map(str, arguments[1:]), "--cache", str(cache)], standalone_mode=False)


@pytest.mark.slow
def test_two_processes_mine_the_same(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    data, cache = write_collection(tmp_path / "data"), tmp_path / "cache"
    found = {}
    for processes in (0, 2):
        out = tmp_path / f"negatives{processes}"
        done = retromae(
            *("mine", tiny_folder("bert"), "--pairs", data, "--out", out, "--pooling", "cls"),
            *("--depth", 12),
            cache=cache,
            processes=processes,
        )
        assert done.returncode == 0, done.stderr
        found[processes] = Candidates.open(out, Pairs.open(data, cache=cache))
    assert np.array_equal(found[0].lists.members, found[2].lists.members)
    assert np.array_equal(found[0].scores, found[2].scores)
    manifest = json.loads((tmp_path / "negatives2" / "manifest.json").read_text())
    assert manifest["facts"]["queries"] == 36
