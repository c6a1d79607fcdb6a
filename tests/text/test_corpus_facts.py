"""What is said of a pile of text, against counting it the plain way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retromae.text import corpus_facts
from retromae.text.corpus_facts import Survey, survey
from retromae.text.sources import ReadOptions
from tiny import SENTENCES

DOCUMENTS = st.lists(
    st.tuples(
        st.sampled_from(["", "Salt", "Owls and bees"]),
        st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=4).map(" ".join),
    ),
    min_size=1,
    max_size=30,
)


def write(path: Path, documents: list[tuple[str, str]]) -> Path:
    rows = [{"_id": f"d{n}", "title": title, "text": text} for n, (title, text) in enumerate(documents)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def looked_at(path: Path, **options: object) -> Survey:
    return survey([str(path)], ReadOptions(**options))  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DOCUMENTS, st.randoms(use_true_random=False))
def test_counts_add_up_in_any_order(tmp_path: Path, documents: list[tuple[str, str]], random) -> None:
    found = looked_at(write(tmp_path / "a.jsonl", documents))
    facts = found.facts
    texts = [text for _, text in documents]
    assert facts.documents == len(documents) == len(found.word_counts)
    assert facts.characters == sum(map(len, texts))
    assert facts.words == int(found.word_counts.sum())
    assert facts.titled == sum(bool(title) for title, _ in documents)
    assert facts.duplicates == len(texts) - len(set(texts))
    assert sorted(excerpt.text for excerpt in found.excerpts) == sorted(set(texts)) and found.complete
    assert facts.lengths.shortest == found.word_counts.min() <= facts.lengths.median <= facts.lengths.longest
    random.shuffle(documents)
    other = looked_at(write(tmp_path / "b.jsonl", documents)).facts
    for name in (
        *("documents", "characters", "words", "sentences", "titled", "duplicates", "lengths", "languages"),
        *("repeated", "with_markup"),
    ):
        assert getattr(other, name) == getattr(facts, name), name
    assert other.near_copies.copies == facts.near_copies.copies


def test_sentences_of_a_whole_corpus_are_exact(tmp_path: Path) -> None:
    texts = [" ".join(SENTENCES[n : n + 3]) for n in range(20)]
    facts = looked_at(write(tmp_path / "a.jsonl", [("", text) for text in texts])).facts
    assert facts.sentences == 60
    assert facts.languages[0].language == "English"


def test_a_document_in_two_languages(tmp_path: Path) -> None:
    german = "Der Hafenmeister zählt die Boote zweimal, und dann schreibt er ihre Namen in ein Buch. "
    (tmp_path / "a.txt").write_text(" ".join(SENTENCES) * 8 + german * 140, encoding="utf-8")
    shares = {found.language: found.share for found in looked_at(tmp_path).facts.languages}
    assert set(shares) == {"English", "German"} and 0.4 < shares["English"] < 0.7


def test_duplicates_are_known_through_white_space_and_accents(tmp_path: Path) -> None:
    documents = [("", "café  au lait"), ("other title", "cafe\u0301 au\nlait "), ("", "cafe au lait")]
    assert looked_at(write(tmp_path / "a.jsonl", documents)).facts.duplicates == 1


def test_what_is_not_read_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(SENTENCES[0])
    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "odd.txt").write_bytes(b"caf\xe9 and more")
    facts = looked_at(tmp_path).facts
    assert (facts.files, facts.documents) == (4, 1)
    assert facts.skipped == {"empty": 1, "not_read": 1, "wrong_encoding": 1}
    assert "picture.png" in facts.skipped_examples["not_read"][0]


def test_nothing_gives_zeros(tmp_path: Path) -> None:
    found = looked_at(tmp_path)
    assert (found.facts.files, found.facts.documents, found.facts.words, found.excerpts) == (0, 0, 0, [])
    assert found.facts.near_copies.share == 0.0 and not found.facts.languages


def test_repeated_lines_and_markup(tmp_path: Path) -> None:
    documents = [
        ("", f"Home | Products | About us\n{SENTENCES[n % 24]} {n}\n<p>All rights reserved</p>")
        for n in range(30)
    ]
    facts = looked_at(write(tmp_path / "a.jsonl", [*documents, ("", "List<T> of a < b & c")])).facts
    assert facts.with_markup == 30
    assert [line.text for line in facts.repeated.lines] == [
        "<p>All rights reserved</p>",
        "Home | Products | About us",
    ]
    assert facts.repeated.lines[0].share == 30 / 31
    assert facts.repeated.share == 60 / 91


def test_a_long_document_is_taken_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_facts, "PIECE", 5000)
    monkeypatch.setattr(corpus_facts, "_AT_ONCE", 12_000)
    sentences = [f"{SENTENCES[n % 24]} {n}" for n in range(600)]
    text = " ".join(sentences)
    assert len(text) > 35_000
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text(text.replace(" 7 ", "\n 7 "))  # the same words, white space elsewhere
    (tmp_path / "c.txt").write_text("x" * 10_005)
    found = looked_at(tmp_path)
    short = looked_at(write(tmp_path / "a.jsonl", [("", sentence) for sentence in sentences]))
    assert (found.facts.documents, found.facts.duplicates) == (3, 1)
    assert found.word_counts.tolist() == [short.facts.words, short.facts.words, 3]
    assert all(len(excerpt.text) <= 5000 for excerpt in found.excerpts)
    pieces = [excerpt for excerpt in found.excerpts if excerpt.id != "c.txt"]
    assert sum(excerpt.words for excerpt in pieces) == short.facts.words
    assert len({excerpt.text for excerpt in pieces}) == len(pieces) > 7
    monkeypatch.setattr(corpus_facts, "_EXCERPTS", 11_000)
    some = looked_at(tmp_path)
    assert not some.complete and 0 < sum(len(excerpt.text) for excerpt in some.excerpts) <= 11_000


def test_reading_stops_when_there_is_no_more_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [("", f"{SENTENCES[n % 24]} {n}") for n in range(5000)])
    facts = survey([str(path)], seconds=0.0).facts
    assert facts.documents == 1 and facts.stopped and 0 < facts.share_read < 1
