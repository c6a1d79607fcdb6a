"""The text as folders to train on and to judge by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.adapt.made import write_text
from app.command_line import write_lines
from retromae.app.adapt.corpus import CorpusFacts, passages_of, write_corpus
from retromae.app.adapt.settings import AdaptConfig
from retromae.core.errors import UserError
from retromae.text.pairs import Pairs
from text.test_inner_pairs import TOKENIZER
from training.finetuning import write_collection


def settings(source: Path, **more: Any) -> AdaptConfig:
    return AdaptConfig(sources=[str(source)], output_dir="x", passage_max_len=24, eval_queries=60, **more)


def written(source: Path, run: Path, **more: Any) -> CorpusFacts:
    run.mkdir(exist_ok=True)
    return write_corpus(settings(source, **more), TOKENIZER, run)


def opened(run: Path, split: str, folder: str = "corpus") -> Pairs:
    return Pairs.open(run / folder, split, cache=run / "pairs")


def test_documents_are_held_out_whole(tmp_path: Path) -> None:
    facts = written(write_text(tmp_path / "text.jsonl", 400), tmp_path / "run")
    assert CorpusFacts.read(tmp_path / "run" / "corpus") == facts
    documents: dict[str, set[str]] = {}
    for split in ("train", "dev", "test", "judged"):
        pairs = opened(tmp_path / "run", split)
        ids = [pairs.passages[int(number)].id for number in pairs.positives.members]
        documents[split] = {name.partition("#")[0] for name in ids}
        if split != "judged":
            assert len(pairs) == getattr(facts, split)
    assert not documents["train"] & documents["judged"] and not documents["dev"] & documents["test"]
    assert documents["judged"] == documents["dev"] | documents["test"]
    assert (facts.dev, facts.test) == (20, 40)
    whole = {document.id: document for document in passages_of(tmp_path / "run")}
    assert len(whole) == facts.passages and all(document.title for document in whole.values())


def test_both_kinds_judge_or_the_one_that_is_asked_for(tmp_path: Path) -> None:
    source = write_text(tmp_path / "text.jsonl", 400)
    written(source, tmp_path / "both")
    kinds = [opened(tmp_path / "both", "test").queries[row].id.partition(":")[0] for row in range(40)]
    assert kinds.count("title") == kinds.count("sentence") == 20
    written(source, tmp_path / "one", judge_by=["title"])
    one = opened(tmp_path / "one", "test")
    assert {one.queries[row].id.partition(":")[0] for row in range(len(one))} == {"title"}


def test_spans_ask_in_training_only(tmp_path: Path) -> None:
    source = write_text(tmp_path / "text.jsonl", 400)
    written(source, tmp_path / "run", questions_from=["sentence", "span"], judge_by=["sentence"])
    lengths = {split: opened(tmp_path / "run", split).positives.lengths for split in ("train", "judged")}
    assert lengths["train"].max() > 1 and lengths["judged"].max() == 1


def test_own_queries_judge_on_their_own_passages(tmp_path: Path) -> None:
    own = write_collection(tmp_path / "own")
    facts = written(write_text(tmp_path / "text.jsonl"), tmp_path / "run", pairs=str(own))
    judged = opened(tmp_path / "run", "judged", facts.judged_on)
    assert facts.judged_on == "judging" and len(judged) == 24 == facts.dev + facts.test
    assert len(judged.passages) == 60 and facts.made_from == "your queries"
    train = opened(tmp_path / "run", "train")
    ids = [train.queries[row].id for row in range(len(train))]
    assert sum(name.startswith("own-train") for name in ids) == 36
    assert sum(not name.startswith("own-") for name in ids) > 100  # and those made of the text


def test_own_queries_without_a_split_are_divided(tmp_path: Path) -> None:
    rows = [{"query": f"what {n}", "pos": [f"it is the stone number {n}"]} for n in range(160)]
    own = write_lines(tmp_path / "own.jsonl", rows)
    facts = written(write_text(tmp_path / "text.jsonl"), tmp_path / "run", pairs=str(own))
    splits = {split: opened(tmp_path / "run", split, "judging") for split in ("dev", "test")}
    asked = {split: {pairs.queries[row].text for row in range(len(pairs))} for split, pairs in splits.items()}
    train = opened(tmp_path / "run", "train")
    trained = {train.queries[row].text for row in range(len(train))}
    assert len(asked["test"]) == 40 and len(asked["dev"]) == 20 == facts.dev
    assert not asked["dev"] & asked["test"] and not (asked["dev"] | asked["test"]) & trained


def test_of_one_enormous_document_runs_of_passages_are_held_out(tmp_path: Path) -> None:
    lines = (json.loads(line)["text"] for line in write_text(tmp_path / "many.jsonl", 1500).open())
    book = write_lines(
        tmp_path / "book.jsonl", [{"_id": "book", "title": "The book", "text": " ".join(lines)}]
    )
    facts = written(book, tmp_path / "run")
    assert facts.documents == 1 and (facts.dev, facts.test) == (20, 40) and facts.train > 400
    pairs = {split: opened(tmp_path / "run", split) for split in ("train", "judged")}
    runs = {
        split: {int(pairs[split].passages[int(number)].id.partition("#")[2]) // 20 for number in found}
        for split, found in ((split, pairs[split].positives.members) for split in pairs)
    }
    assert not runs["train"] & runs["judged"]


def test_too_little_text_is_refused_in_a_sentence(tmp_path: Path) -> None:
    source = write_text(tmp_path / "text.jsonl", 10)
    with pytest.raises(UserError, match=r"10 documents give .* too few"):
        written(source, tmp_path / "run")
    assert not (tmp_path / "run" / "corpus").exists()
    with pytest.warns(UserWarning, match="only large gains will show"):
        written(write_text(tmp_path / "more.jsonl", 120), tmp_path / "run")


def test_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="no text to read"):
        written(tmp_path / "pictures", tmp_path / "run")


def test_facts_that_are_damaged_are_refused(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(json.dumps({"documents": 1}))
    with pytest.raises(UserError, match="is damaged"):
        CorpusFacts.read(tmp_path)
