"""Examples with their texts: every layout gives the same pairs, and what cannot be read is refused with its place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retromae.core.errors import UserError
from retromae.text.collections import OnError
from retromae.text.pairs import Pairs
from text.pair_data import CORPUS, TRIPLES, ids_of, texts_of, write_lines, write_table

TIDES, DOUGH = "why are there tides", "what makes dough rise"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETROMAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pairs"


def opened(folder: Path, *rows: dict[str, Any], on_error: OnError = "raise") -> Pairs:
    return Pairs.open(write_lines(folder / "some.jsonl", rows), on_error=on_error)


def as_rows(*names: str) -> list[dict[str, str]]:
    return [dict(zip(names, triple, strict=True)) for triple in TRIPLES]


def write_parquet(path: Path, rows: list[dict[str, str]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def flag_embedding(path: Path) -> Path:
    """Every query once, with all its passages; `type` says nothing about them."""
    first, second, third = TRIPLES
    rows = [
        {"query": first[0], "pos": [first[1], third[1]], "neg": [first[2], third[2]], "type": "normal"},
        {"query": second[0], "pos": [second[1]], "neg": [second[2]], "type": "normal"},
    ]
    return write_lines(path, rows)


def test_every_layout_of_the_same_triples_gives_the_same_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    rows = as_rows("anchor", "positive", "negative")
    saved = datasets.Dataset.from_list(rows)
    saved.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict(dev=saved).save_to_disk(str(tmp_path / "several"))
    (tmp_path / "shards" / "data").mkdir(parents=True)
    write_parquet(tmp_path / "shards" / "data" / "train-00001-of-00002.parquet", rows[1:])
    write_parquet(tmp_path / "shards" / "data" / "train-00000-of-00002.parquet", rows[:1])
    marked = [{"split": "dev", **row} for row in rows] + [
        {"split": "train", "anchor": "else", "positive": "more", "negative": "less"}
    ]
    sources: list[tuple[Path | str, str]] = [
        (write_lines(tmp_path / "a.jsonl", rows), "train"),
        (write_lines(tmp_path / "b.jsonl.gz", as_rows("query", "passage", "negative_1")), "train"),
        (write_table(tmp_path / "c.csv", as_rows("question", "answer", "hard_negative")), "train"),
        (write_table(tmp_path / "d.tsv", as_rows("sentence1", "entailment", "contradiction")), "train"),
        (write_table(tmp_path / "e.tsv", marked), "dev"),
        (write_parquet(tmp_path / "f.parquet", rows), "train"),
        (write_lines(tmp_path / "folder" / "dev.jsonl", rows).parent, "dev"),
        (tmp_path / "shards", "train"),
        (f"hub:{tmp_path / 'shards'}", "train"),
        (tmp_path / "saved", "train"),
        (tmp_path / "several", "dev"),
    ]
    found = [Pairs.open(source, split) for source, split in sources]
    assert [pairs.split for pairs in found] == [split for _, split in sources]
    assert {pairs.fingerprint for pairs in found} == {found[0].fingerprint}
    assert not found[0].has_corpus
    grouped = Pairs.open(flag_embedding(tmp_path / "g.jsonl"))
    for pairs in (found[0], grouped):
        assert texts_of(pairs, pairs.positives) == {
            TIDES: [TRIPLES[0][1], TRIPLES[2][1]],
            DOUGH: [TRIPLES[1][1]],
        }
        assert texts_of(pairs, pairs.negatives) == {
            TIDES: [TRIPLES[0][2], TRIPLES[2][2]],
            DOUGH: [TRIPLES[1][2]],
        }
        assert len(pairs.passages) == 5  # one is a positive here and a negative there
    assert set(grouped.passages.ids) == set(found[0].passages.ids)


def test_tevatron_keeps_its_ids_and_titles(tmp_path: Path) -> None:
    moon, iron = CORPUS[0], CORPUS[2]
    rows = [
        {
            "query_id": 7,
            "query": TIDES,
            "positive_passages": [{"docid": "d1", "title": moon["title"], "text": moon["text"]}],
            "negative_passages": [{"docid": "d3", "title": None, "text": iron["text"]}],
        },
        {"query_id": "8", "query": TIDES, "positive_passages": [{"docid": "x", "text": iron["text"]}]},
    ]
    pairs = opened(tmp_path, *rows)
    assert ids_of(pairs, pairs.positives) == {"7": ["d1"], "8": ["d3"]}  # equal texts: the first id stands
    assert ids_of(pairs, pairs.negatives) == {"7": ["d3"], "8": []}
    assert pairs.passages.texts([0]) == ["Tides The moon pulls the sea."]
    for wrong, message in (
        ({**rows[0], "query": "else"}, r":3: the id '7' stands for another text before"),
        ({**rows[1], "positive_passages": [{"docid": "d1", "text": "new"}]}, r":3: the id 'd1' stands"),
    ):
        with pytest.raises(UserError, match=message):
            opened(tmp_path, *rows, wrong)


def test_teacher_scores(tmp_path: Path) -> None:
    pairs = opened(
        tmp_path,
        {"query": "a", "pos": ["b", "c"], "neg": ["d"], "pos_scores": [1, 0.5], "neg_scores": [-2]},
        {"query": "e", "pos": ["f"], "neg": ["d", "b"]},
        {"query": "e", "positive": "f", "negative_1": None, "negative_2": "d", "score": [3, 9, 4]},
    )
    assert pairs.positive_scores is not None and pairs.negative_scores is not None
    np.testing.assert_array_equal(pairs.positive_scores, np.array([1, 0.5, 3], dtype=np.float32))
    np.testing.assert_array_equal(pairs.negative_scores, np.array([-2, 4, math.nan], dtype=np.float32))
    assert texts_of(pairs, pairs.negatives) == {"a": ["d"], "e": ["d", "b"]}


def test_a_prompt_stands_before_the_query(tmp_path: Path) -> None:
    pairs = opened(tmp_path, {"query": "a", "pos": ["b"], "prompt": "find: "}, {"query": "a", "pos": ["b"]})
    assert pairs.queries.texts([0, 1]) == ["find: a", "a"]
    assert pairs.positives.members.tolist() == [0, 0]


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="left out|not read") as said:
        pairs = opened(
            tmp_path,
            {"query": "a", "pos": ["b"], "neg": ["c"], "topic": 1},
            {"query": "a", "pos": ["c"], "neg": ["d"]},
        )
    assert texts_of(pairs, pairs.negatives) == {"a": ["d"]}
    assert [str(warning.message).partition("jsonl: ")[2] for warning in said] == [
        "1 negatives were left out: they are positives of the same query.",
        "the fields topic are not read.",
    ]


GOOD = {"query": "a", "pos": ["b"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a", "pos": []}, "no positive passage; give it one"),
        ({"query": " ", "pos": ["b"]}, "`query` is empty"),
        ({"query": "a", "pos": ["b", ""]}, "`pos` is empty"),
        ({"query": "a", "pos": ["b"], "neg": [3]}, "`neg` is int, not text"),
        ({"query": "a", "pos": ["b\ud800"]}, "half a surrogate pair"),
        ({"anchor": "a", "body": "b"}, "no field for the positive passage .there: anchor, body"),
        ({"text": "a", "positive": "b"}, "no field for the query"),
        ({"sentence1": "a", "sentence2": "b", "label": 1}, "`label` grades texts"),
        ({"query": "a", "answer": ["b", "c"], "labels": [1, 0]}, "`labels` grades texts"),
        (
            {"anchor": "a", "positive": "b", "negative": "c", "score": [1]},
            "list of 2 numbers.* it is 1 numbers",
        ),
        ({"query": "a", "pos": ["b"], "pos_scores": [float("nan")]}, "must be finite"),
        ({"query": "a", "pos": ["b"], "pos_scores": "1"}, "must be a list of 1 numbers"),
        ({"query": "a", "positive_passages": ["b"]}, "list of objects"),
        ({"query": "a", "positive_passages": [{"docid": "1"}]}, "has no `text`"),
        ({"query": "a", "positive_passages": [{"docid": "1", "text": " "}]}, "is empty"),
        ({"query_id": "1", "positive_passages": []}, "no field `query`"),
    ],
)
def test_bad_lines_are_refused_with_their_place(tmp_path: Path, cache: Path, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"some\.jsonl:2: .*{message}"):
        opened(tmp_path, GOOD, row)
    assert not list(cache.iterdir())  # nothing half done is left


def test_broken_files_are_refused_with_their_place(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.jsonl", '{"query": "a", "pos": ["b"]}\n{"query"\n', r"a\.jsonl:2: .*not valid JSON"),
        ("a.csv", "anchor,positive\na,b\nc\n", r"a\.csv:3: the row has 1 columns"),
        ("a.parquet", "not parquet", r"a\.parquet:1: .*damaged"),
        ("a.jsonl.gz", "not gzip", r"a\.jsonl\.gz:1: .*damaged"),
        ("a.jsonl", "", "has no query with a positive"),
        ("a.docx", "", "of a kind that is not read"),
    ):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            Pairs.open(path)


def test_a_query_without_a_positive_can_be_left_out(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"1 queries have no positive passage .*jsonl:2.; left out"):
        pairs = opened(tmp_path, GOOD, {"query": "c", "pos": [], "neg": ["d"]}, on_error="warn")
    assert texts_of(pairs, pairs.positives) == {"a": ["b"]}
    assert pairs.negatives is None


def test_a_split_is_never_taken_for_another(tmp_path: Path) -> None:
    marked = write_table(tmp_path / "marked.tsv", [{"split": "dev", "query": "a", "answer": "b"}])
    with pytest.raises(UserError, match=r"no row of the split 'train' .there: dev"):
        Pairs.open(marked)
    plain = write_lines(tmp_path / "pairs.jsonl", [GOOD])
    with pytest.raises(UserError, match="nothing says that this is of the split 'dev'"):
        Pairs.open(plain, "dev")
    assert len(Pairs.open(plain.rename(tmp_path / "pairs-dev.jsonl"), "dev")) == 1
    with pytest.raises(UserError, match="names the split 'test', but 'dev' was asked for"):
        Pairs.open("hub:somebody/something@test", "dev")
    with pytest.raises(UserError, match=r"no pairs of the split 'test': expected"):
        Pairs.open(tmp_path, "test")
    write_lines(tmp_path / "both" / "train.jsonl", [GOOD])
    write_lines(tmp_path / "both" / "train.jsonl.gz", [GOOD])
    with pytest.raises(UserError, match=r"several files for 'train' .train\.jsonl, train\.jsonl\.gz"):
        Pairs.open(tmp_path / "both")
    with pytest.raises(UserError, match="there is no"):
        Pairs.open(tmp_path / "nowhere")
