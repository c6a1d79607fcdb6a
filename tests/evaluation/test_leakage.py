"""Texts that a model was trained on are found, word for word and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retromae.evaluation import leakage
from retromae.evaluation.leakage import SHORTEST, WHOLE, TrainingText, check, seen_in, training_text
from retromae.text.rows import Rows
from tiny import SENTENCES
from training.runs import prepare_rows

Folder = Callable[[str], Path]
disable_progress_bar()


def token_rows(folder: Path, rows: list[list[int]]) -> Rows:
    shutil.rmtree(folder, ignore_errors=True)
    Dataset.from_dict({"token_ids": rows}).save_to_disk(str(folder))
    return Rows.open(folder)


def stands_in(row: list[int], text: list[int]) -> bool:
    return any(row[start : start + len(text)] == text for start in range(len(row) - len(text) + 1))


@given(st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_as_a_search_by_eye(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    few = st.integers(0, 1)  # of few different tokens, so that much repeats
    rows = data.draw(st.lists(st.lists(few, max_size=60), min_size=1, max_size=6).filter(any))
    pieces = data.draw(st.lists(st.lists(few, max_size=WHOLE), max_size=6))
    for row in rows:  # and pieces that are certainly there
        start = data.draw(st.integers(0, len(row)))
        pieces.append(row[start : start + data.draw(st.integers(0, WHOLE))])
    monkeypatch.setattr(leakage, "_BLOCK", data.draw(st.integers(1, 100)))
    found = seen_in(token_rows(tmp_path / "rows", rows), [np.array(o, dtype=np.int32) for o in pieces])
    expected = [len(o) >= SHORTEST and any(stands_in(row, o) for row in rows) for o in pieces]
    assert found.tolist() == expected


def checkpoint(folder: Path, rows: Path, fingerprint: str, base: Path | None = None) -> Path:
    folder.mkdir(parents=True)
    recipe = {
        "settings": {"rows": str(rows)},
        "provenance": {"rows": fingerprint, "base": str(base) if base else None},
    }
    (folder / "pretraining.json").write_text(json.dumps(recipe))
    return folder


def test_passages_of_the_training_corpus_are_found(tiny_folder: Folder, tmp_path: Path) -> None:
    rows = prepare_rows(tmp_path, tiny_folder("bert"))
    model = checkpoint(tmp_path / "model", rows, Rows.open(rows).fingerprint)
    documents = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    passages = {document["_id"]: document["text"] for document in documents[:20]}
    strangers = {f"s{number}": sentence for number, sentence in enumerate(SENTENCES)}
    queries = {"own": documents[3]["text"].split(". ")[0], "short": "The river", "foreign": SENTENCES[0]}
    result = check("a", training_text(model), queries, {**passages, **strangers})
    assert result.passages == list(passages) and result.queries == ["own"]
    assert (result.queries_checked, result.passages_checked) == (2, 44)
    assert "1 of 2 queries and 20 of 44 relevant passages" in result.sentence("toy")
    clean = check("a", training_text(model), {"foreign": SENTENCES[0]}, strangers)
    assert not clean.found and clean.sentence("toy") == ""


def test_what_is_known_of_a_model(tiny_folder: Folder, tmp_path: Path) -> None:
    rows = prepare_rows(tmp_path, tiny_folder("bert"))
    first = checkpoint(tmp_path / "first", rows, Rows.open(rows).fingerprint)
    second = checkpoint(tmp_path / "second", tmp_path / "gone", "abc", first)
    assert training_text(second) == TrainingText([str(rows)], [str(tmp_path / "gone")], True)
    changed = checkpoint(tmp_path / "third", rows, "another fingerprint")
    assert training_text(changed) == TrainingText([], [str(rows)], True)
    assert "gone or has changed" in check("c", training_text(changed), {}, {}).sentence("toy")
    foreign = training_text(tiny_folder("bert"))
    assert foreign == TrainingText([], [], False)
    assert "is not recorded" in check("f", foreign, {}, {}).sentence("toy")


def test_a_fine_tuned_model_knows_its_queries(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test queries that were trained on are found, through an average too; the corpus alone is no leak."""
    from retromae.app.verbs import command_of
    from training.finetuning import flags, write_collection
    from training.finetuning import settings as tuning

    monkeypatch.setenv("RETROMAE_CACHE", str(tmp_path / "cache"))
    data = write_collection(tmp_path / "data")
    values = tuning(tiny_folder("bert"), data, tmp_path / "run", pooling="cls", eval_queries=0, max_steps=1)
    command_of("finetune").main(flags(values), standalone_mode=False)
    tuned = tmp_path / "run" / "model"
    asked = json.loads((data / "queries.jsonl").read_text().splitlines()[0])["text"]
    queries = {"old": f" {asked.upper()} ", "new": "what nobody has asked before"}
    passages = {"p": json.loads((data / "corpus.jsonl").read_text().splitlines()[0])["text"]}
    known = training_text(tuned)
    assert known.recorded and known.pairs == [(str(data.resolve()), "train")]
    found = check("tuned", known, queries, passages)
    assert (found.queries, found.passages, found.queries_checked) == (["old"], [], 2)
    assert "train" in found.sentence("mine")
    command_of("average").main(
        [str(tuned), str(tuned), "--out", str(tmp_path / "merged")], standalone_mode=False
    )
    assert training_text(tmp_path / "merged").pairs == known.pairs
    with (data / "queries.jsonl").open("a") as stream:
        stream.write(json.dumps({"_id": "more", "text": "one more"}) + "\n")
    (data / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nmore\td0\t1\n")
    changed = training_text(tuned)
    assert not changed.pairs and changed.gone == [str(data.resolve())]
