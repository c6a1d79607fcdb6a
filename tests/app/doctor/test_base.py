"""What kind of start a folder is, and how its vocabulary fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.doctor.patients import GREEK, SMALL, make_embedder, write_text
from retromae.app.doctor.base import kind_of, opened
from retromae.app.doctor.fit import fit_of, tokenised
from retromae.core.errors import UserError
from retromae.core.files import write_json
from retromae.text.corpus_facts import survey
from tiny import SENTENCES, family_tokenizer

Folder = Callable[[str], Path]


def test_kinds(tiny_folder: Folder, tmp_path: Path) -> None:
    plain = tiny_folder("bert")
    assert kind_of(None)[0] == "nothing"
    assert kind_of(str(plain))[0] == "masked language model"
    embedder = make_embedder(plain, tmp_path / "embedder")
    assert kind_of(str(embedder))[0] == "embedder"
    write_json(embedder / "pretraining.json", {"objective": "retromae"})
    assert kind_of(str(embedder)) == (
        "masked language model",
        "pretraining.json: pre-trained with retromae, not fine-tuned yet",
    )
    write_json(embedder / "finetuning.json", {})
    assert kind_of(str(embedder))[0] == "embedder"


def test_what_is_no_base_is_refused(tiny_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        kind_of(str(tmp_path / "nowhere"))
    folder = make_embedder(tiny_folder("bert"), tmp_path / "judge")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "architectures": ["BertForSequenceClassification"]})
    with pytest.raises(UserError, match="cross-encoder"):
        kind_of(str(folder))


def test_facts_of_a_base(tiny_folder: Folder) -> None:
    with opened(str(tiny_folder("bert")), [], SMALL) as base:
        facts = base.facts
        assert (facts.layers, facts.hidden_size, facts.intermediate_size) == (2, 32, 48)
        assert (facts.pooling, facts.dimension, facts.longest) == ("cls", 32, 64)
        assert facts.vocabulary == len(base.tokenizer)
        assert facts.parameters == sum(p.numel() for p in base.encoder.model.parameters())
        assert base.passage_length(SMALL) == 30


def test_from_nothing_a_model_is_made_and_removed(tmp_path: Path) -> None:
    found = survey([str(write_text(tmp_path / "a.jsonl"))])
    with opened(None, found.excerpts, SMALL) as base:
        folder = Path(base.folder)
        assert folder.is_dir()
        assert (base.facts.kind, base.facts.layers, base.facts.hidden_size) == ("nothing", 1, 32)
        assert tokenised(found, base.tokenizer, 30).fit.verdict == "fits"
        assert base.encoder.encode_passages(["a text"]).dense.shape == (1, 32)
    assert not folder.exists()


def counted(family: str, text: str) -> tuple[np.ndarray, object]:
    tokenizer = family_tokenizer(family)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return np.bincount(ids, minlength=len(tokenizer)), tokenizer


def test_a_script_that_the_base_does_not_know() -> None:
    words = len(GREEK.split())
    unknown = fit_of(*_with(counted("bert", GREEK), words))
    assert unknown.unknown_share > 0.9 and unknown.verdict == "does not fit"
    assert "unknown to the base's vocabulary" in unknown.sentence
    in_bytes = fit_of(*_with(counted("roberta", GREEK), words))  # bytes know every script, in many tokens
    assert in_bytes.unknown_share == 0 and in_bytes.tokens_per_word > 4
    assert in_bytes.verdict == "does not fit" and "tokens where" in in_bytes.sentence


def _with(found: tuple[np.ndarray, object], words: int) -> tuple[np.ndarray, int, object]:
    return found[0], words, found[1]


def test_tokens_without_letters_do_not_count() -> None:
    counts, tokenizer = counted("bert", "a , . ! ? ; a - a")
    assert fit_of(counts, 3, tokenizer).tokens_per_word == 1.0


def test_passages_and_what_cutting_would_lose(tmp_path: Path) -> None:
    """Against the plain count of every document."""
    found = survey([str(write_text(tmp_path / "a.jsonl", documents=20, sentences=2))])
    tokenizer = family_tokenizer("bert")
    text = tokenised(found, tokenizer, 40)
    assert found.complete and text.passages.number == len(text.samples)
    assert max(len(sample.ids) for sample in text.samples) <= 40
    lengths = []
    for n in range(20):
        body = " ".join(f"{SENTENCES[(n * 5 + k * 7) % 24]} {n} {k}." for k in range(2))
        lengths.append(len(tokenizer(f"Part {n} {body}", add_special_tokens=False)["input_ids"]))
    kept = sum(len(sample.ids) for sample in text.samples)
    titles = sum(len(tokenizer(s.title, add_special_tokens=False)["input_ids"]) for s in text.samples)
    assert kept - titles == sum(lengths) - 20 * titles / len(text.samples)  # every token is in one passage
    real = np.mean(np.array(lengths) > 40)
    assert abs(text.passages.cut_share - real) <= 0.1
    lost = np.maximum(np.array(lengths) - 40, 0).sum() / sum(lengths)
    assert abs(text.passages.lost_share - lost) < 0.05
