"""Negatives that somebody published: what is taken of a file, against the rules in words."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from retromae.core.errors import UserError
from retromae.text.candidates import Candidates
from retromae.text.pairs import Pairs
from retromae.training.negatives import MineConfig, mine_bm25
from retromae.training.published_negatives import read_published
from training.finetuning import retromae, write_collection


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    folder = tmp_path_factory.mktemp("published")
    return Pairs.open(write_collection(folder / "data"), cache=folder / "cache")


def published(pairs: Pairs, *, scored: bool = True) -> list[dict[str, Any]]:
    """Of most queries, and of one that the pairs do not know; some candidates are right, some come twice."""
    rng = random.Random(3)
    ids = pairs.passages.ids

    def entry(passage: str) -> Any:
        return {"pid": passage, "ce-score": round(rng.uniform(-5, 9), 3)} if scored else passage

    rows = []
    for number, query in enumerate([*pairs.queries.ids[3:], "stranger"]):
        known = pairs.positives[number + 3].tolist() if number + 3 < len(pairs) else [0]
        systems = {name: [entry(p) for p in rng.sample(ids, 12)] for name in ("bm25", "dense", "late")}
        rows.append({"qid": query, "pos": [entry(ids[known[0]])], "neg": systems})
    return rows


def written(rows: list[dict[str, Any]], path: Path) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def by_hand(
    rows: list[dict[str, Any]], pairs: Pairs, margin: float | None, most: int | None
) -> dict[str, dict[str, float]]:
    """Query → passage → score."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["qid"] == "stranger":
            continue
        kept: dict[str, float] = {}
        right = {item["pid"] for item in row["pos"]}
        lowest = min(item["ce-score"] for item in row["pos"])
        for items in row["neg"].values():
            taken = 0
            for item in items:
                close = margin is not None and item["ce-score"] > lowest - margin
                if item["pid"] not in right and item["pid"] not in kept and not close and taken != most:
                    kept[item["pid"]] = item["ce-score"]
                    taken += 1
        number = pairs.queries.ids.index(row["qid"])
        answers = {pairs.passages.ids[place] for place in pairs.positives[number].tolist()}
        found[row["qid"]] = {passage: score for passage, score in kept.items() if passage not in answers}
    return found


@pytest.mark.parametrize(("margin", "most"), [(None, None), (3.0, 5), (0.0, None), (None, 2)])
def test_what_is_taken(pairs: Pairs, tmp_path: Path, margin: float | None, most: int | None) -> None:
    rows = published(pairs)
    found = read_published(
        written(rows, tmp_path / "n.jsonl.gz"), pairs, MineConfig(absolute_margin=margin, per_system=most)
    )
    ids, expected = pairs.passages.ids, by_hand(rows, pairs, margin, most)
    for number, query in enumerate(pairs.queries.ids):
        wanted = expected.get(query, {})
        assert [ids[place] for place in found.lists[number].tolist()] == list(wanted)
        scores = found.scores[found.lists.starts[number] : found.lists.starts[number + 1]]
        assert scores.tolist() == pytest.approx(list(wanted.values()))
    assert found.facts["unknown_queries"] == 1
    assert found.facts["queries without candidates"] == sum(not expected.get(q) for q in pairs.queries.ids)


def test_from_the_command_line(tmp_path: Path, pairs: Pairs) -> None:
    """Ids alone will do; what comes out is read like any other negatives."""
    file, cache = written(published(pairs, scored=False), tmp_path / "n.jsonl.gz"), tmp_path / "cache"
    out, no = tmp_path / "negatives", tmp_path / "no"
    done = retromae("mine", file, "--pairs", pairs.source, "--per_system", 4, "--out", out, cache=cache)
    assert done.returncode == 0, done.stderr
    lists = Candidates.open(out, pairs).lists
    assert 4 <= lists.lengths.max() <= 12 and (out / "sample.md").is_file()
    refused = retromae(
        "mine", file, "--pairs", pairs.source, "--absolute_margin", 1, "--out", no, cache=cache
    )
    assert refused.returncode == 2 and "n.jsonl.gz:1: a margin needs the ce-score" in refused.stderr
    assert not no.exists()


WRONG = [
    ('{"qid": 1, "pos": []}', "n.jsonl:1: expected a query's published negatives"),
    ('{"qid": 1, "pos": [[1]], "neg": {}}', "n.jsonl:1: expected"),
    ("nonsense", "n.jsonl:1: expected"),
    ('{"qid": "train0", "pos": [], "neg": {"a": ["d1", "nobody"]}}', "names the passage 'nobody'"),
    ('{"qid": "train0", "pos": [], "neg": {"a": "d1"}}', "n.jsonl:1: expected"),
    ('{"qid": "stranger", "pos": [], "neg": {"a": ["d1"]}}', "1 of its queries are unknown there"),
]


@pytest.mark.parametrize(("line", "sentence"), WRONG)
def test_what_is_wrong_is_refused(pairs: Pairs, tmp_path: Path, line: str, sentence: str) -> None:
    file = tmp_path / "n.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(UserError, match=sentence.replace("[", r"\[")):
        read_published(file, pairs, MineConfig())
    with pytest.raises(UserError, match=r"there is no .*nowhere\.jsonl"):
        read_published(tmp_path / "nowhere.jsonl", pairs, MineConfig())
    for answers in (["d1", {"pid": "d2", "ce-score": 3}], [{"pid": "d2", "ce-score": 3}, "d1"]):
        row = {"qid": "train0", "pos": answers, "neg": {"a": [{"pid": "d3", "ce-score": 1}]}}
        with pytest.raises(UserError, match="a margin needs the ce-score of every passage"):
            read_published(written([row], tmp_path / "m.jsonl.gz"), pairs, MineConfig(absolute_margin=1))
    with pytest.raises(UserError, match="per_system"):
        read_published(file, pairs, MineConfig(per_system=0))
    with pytest.raises(UserError, match="per_system is of a file"):
        mine_bm25(pairs, MineConfig(per_system=2))
