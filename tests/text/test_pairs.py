"""Training pairs: collections by id, nothing lost in silence, and a store that is made once."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retromae.core.errors import UserError
from retromae.text.pairs import Pairs
from text.pair_data import (
    CORPUS,
    ids_of,
    texts_of,
    write_beir,
    write_lines,
    write_marco,
)

GOOD = {"query": "a", "pos": ["b"]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETROMAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pairs"


# Collections with ids


@pytest.mark.parametrize("packed", [False, True])
def test_a_beir_folder(tmp_path: Path, packed: bool) -> None:
    pairs = Pairs.open(write_beir(tmp_path / "mini", packed=packed))
    assert (pairs.name, pairs.split, len(pairs), pairs.has_corpus) == ("mini", "train", 2, True)
    assert pairs.source == str(tmp_path / "mini")
    assert [pairs.passages[number].id for number in range(4)] == [row["_id"] for row in CORPUS]
    assert ids_of(pairs, pairs.positives) == {"q2": ["d2"], "q1": ["d1", "d2"]}
    assert ids_of(pairs, pairs.negatives) == {"q2": [], "q1": ["d3"]}  # d4 is graded -1: nothing is said
    assert pairs.passages.texts([0]) == ["Tides The moon pulls the sea."]
    assert (pairs.positive_scores, pairs.negative_scores, pairs.notes) == (None, None, ())


def test_the_fingerprint_is_of_the_data_and_not_of_the_path(tmp_path: Path) -> None:
    plain, packed = write_beir(tmp_path / "plain"), write_beir(tmp_path / "packed", packed=True)
    other = write_beir(tmp_path / "other", "q2\td2\t1\nq1\td1\t2\n")
    prints = [Pairs.open(folder).fingerprint for folder in (plain, packed, other)]
    assert prints[0] == prints[1] != prints[2]


def test_an_ms_marco_folder_and_its_triples(tmp_path: Path) -> None:
    folder = write_marco(tmp_path / "msmarco")
    pairs = Pairs.open(folder)
    assert ids_of(pairs, pairs.positives) == {"q1": ["d1"], "q2": ["d2"]}
    assert pairs.negatives is None and pairs.has_corpus
    triples = folder / "qidpidtriples.train.full.tsv.gz"
    triples.write_bytes(gzip.compress(b"q1\td1\td3\nq2 d2 d1\nq1\td1\td2\nq1\td1\td3\n"))
    named = Pairs.open(triples)
    assert ids_of(named, named.positives) == {"q1": ["d1"], "q2": ["d2"]}
    assert ids_of(named, named.negatives) == {"q1": ["d3", "d2"], "q2": ["d1"]}
    assert len(named.passages) == len(CORPUS)
    with pytest.raises(UserError, match="triples of the split 'train', not 'dev'"):
        Pairs.open(triples, "dev")
    triples.write_bytes(gzip.compress(b"q1\td1\td3\nq1\td1\n"))
    with pytest.raises(UserError, match=r"full\.tsv\.gz:2: expected a query id, a positive and a negative"):
        Pairs.open(triples)


@pytest.mark.parametrize(
    ("judged", "refusal", "note"),
    [
        (
            "q2\td2\t1\nq1\td9\t1\nq1\td1\t1\n",
            "1 judgements name passages that the corpus lacks .*'d9'",
            "lacks",
        ),
        ("q2\td2\t1\nq1\td1\t0\n", "1 queries have no passage that is judged relevant .*'q1'", "relevant"),
        ("q2\td2\t1\nq7\td1\t1\n", "1 queries have no text .*'q7'", "no text"),
    ],
)
def test_what_can_be_lived_with(tmp_path: Path, judged: str, refusal: str, note: str) -> None:
    folder = write_beir(tmp_path / "mini", judged)
    with pytest.raises(UserError, match=refusal):
        Pairs.open(folder)
    for _ in range(2):  # made, then opened: both say so
        with pytest.warns(UserWarning, match=f"{note}.*left out"):
            pairs = Pairs.open(folder, on_error="warn")
    assert ids_of(pairs, pairs.positives)["q2"] == ["d2"]
    assert all(len(row) for row in pairs.positives)


def test_collections_that_are_no_training_data(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "mini")
    with pytest.raises(UserError, match=r"there is no .*dev\.tsv; beside it there are train\.tsv"):
        Pairs.open(folder, "dev")
    with pytest.raises(UserError, match="has no query with a positive"):
        Pairs.open(write_beir(tmp_path / "none", "q1\td1\t0\n"), on_error="warn")
    write_lines(folder / "corpus.jsonl", [*CORPUS, CORPUS[0]])
    with pytest.raises(UserError, match="the id 'd1' twice"):
        Pairs.open(folder)
    answers = tmp_path / "dpr"
    answers.mkdir()
    (answers / "psgs_w100.tsv").write_text("id\ttext\ttitle\n1\tThe moon.\tMoon\n")
    (answers / "nq-train.qa.csv").write_text("who\t['moon']\n")
    with pytest.raises(UserError, match="no judgements"):
        Pairs.open(answers)


# The store


def test_a_store_is_made_once_and_again_when_the_source_changes(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "some.jsonl", [GOOD])
    before, cache = path.stat(), tmp_path / "elsewhere"
    first = Pairs.open(path, cache=cache)
    path.write_text(path.read_text().replace("a", "z"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Pairs.open(path, cache=cache).fingerprint == first.fingerprint  # the source was not read
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert Pairs.open(path, cache=cache).fingerprint != first.fingerprint
    assert len(list(cache.iterdir())) == 2


def test_several_may_make_it_at_once(tmp_path: Path, cache: Path) -> None:
    folder = write_beir(tmp_path / "mini")
    with ThreadPoolExecutor(4) as pool:
        prints = {pairs.fingerprint for pairs in pool.map(lambda _: Pairs.open(folder), range(8))}
    assert len(prints) == 1 and len(list(cache.iterdir())) == 1


def test_a_damaged_store_or_an_unwritable_cache_is_refused(tmp_path: Path, cache: Path) -> None:
    folder = write_beir(tmp_path / "mini")
    Pairs.open(folder)
    (store,) = cache.iterdir()
    (store / "positives.members.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged .*remove it"):
        Pairs.open(folder)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written .*RETROMAE_CACHE"):
        Pairs.open(folder, cache=tmp_path / "file")


def test_texts_are_not_held_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retromae.text.pair_store._CHARACTERS", 1 << 17)
    monkeypatch.setattr("retromae.text.store._PART_CHARACTERS", 1 << 17)
    rows = [
        {"query": f"q {n}", "pos": [f"{n} {'x' * 4000}"], "neg": [f"{n} {'y' * 4000}"]} for n in range(1000)
    ]
    path = write_lines(tmp_path / "some.jsonl", rows)
    del rows
    Pairs.open(write_lines(tmp_path / "first.jsonl", [GOOD]))  # what is imported only once
    tracemalloc.start()
    try:
        pairs = Pairs.open(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(pairs.passages) == 2000
    assert peak < path.stat().st_size / 4


WORDS = st.sampled_from(["a", "b", "c", "d ", "e\u2028f"])


@given(
    st.lists(
        st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3), st.lists(WORDS, max_size=3)),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=30, deadline=None)
def test_rows_are_merged_as_a_plain_reading_would(rows: list[tuple[str, list[str], list[str]]]) -> None:
    positives: dict[str, dict[str, None]] = {}
    negatives: dict[str, dict[str, None]] = {}
    for query, right, wrong in rows:
        positives.setdefault(query, {}).update(dict.fromkeys(right))
        negatives.setdefault(query, {}).update(dict.fromkeys(wrong))
    expected = {
        query: [text for text in negatives[query] if text not in positives[query]] for query in positives
    }
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "some.jsonl")
        path.write_text("".join(json.dumps({"query": q, "pos": p, "neg": n}) + "\n" for q, p, n in rows))
        pairs = Pairs.open(path, cache=Path(folder, "cache"))
        assert texts_of(pairs, pairs.positives) == {query: list(texts) for query, texts in positives.items()}
        if any(expected.values()):
            assert texts_of(pairs, pairs.negatives) == expected
        else:
            assert pairs.negatives is None
        texts = pairs.passages.texts(range(len(pairs.passages)))
        assert len(set(texts)) == len(texts) == len(set(pairs.passages.ids))
        assert set(texts) == {text for _, right, wrong in rows for text in (*right, *wrong)}
