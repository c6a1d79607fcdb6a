"""Passages: whole sentences up to the limit, nothing lost, offsets that hold."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from retromae.text.passages import PassageRules, cut, sentence_tokens, split_document, tokenise
from retromae.text.seen import SeenKeys, duplicate_key
from retromae.text.sentences import split_sentences
from retromae.text.sources import Document

WORDS = [
    "Salt",
    "River",
    "river",
    "bridge",
    "lantern",
    "under",
    "Dr.",
    "桥在风中。",
    "naïve",
    "🙂",
    "x" * 30,
    "3.5",
]
ENDS = [". ", "! ", "? ", " ", "\n\n", "。", ", "]


@cache
def tokenizer_of(kind: str) -> Any:
    texts = ["Salt River salt river bridge lantern under naïve 3.5 桥 Dr. x"] * 5
    if kind == "wordpiece":
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=80, special_tokens=["[UNK]"], show_progress=False)
    elif kind == "bytelevel":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    else:
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=60, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        )
    backend.train_from_iterator(texts, trainer)
    return backend


TEXTS = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(ENDS)).map("".join), max_size=40).map(
    "".join
)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.sampled_from(["wordpiece", "bytelevel", "unigram"]), st.integers(4, 20), st.integers(0, 2))
def test_no_token_is_lost_and_no_passage_too_long(text: str, kind: str, limit: int, minimum: int) -> None:
    spans = split_sentences(text)
    tokens = tokenise([text], [spans], tokenizer_of(kind))[0]
    starts = sentence_tokens(tokens, spans)
    runs = cut(text, tokens, starts, limit, minimum)
    assert [a for a, _ in runs] + [len(tokens)] == [0] + [b for _, b in runs] if runs else not len(tokens)
    assert all(0 < b - a <= limit for a, b in runs)
    # whole sentences: a cut lies inside a sentence only if that sentence does not fit into one passage
    bounds = [*starts.tolist(), len(tokens)]
    for _, b in runs:
        if b not in bounds:
            end = next(x for x in bounds if x > b)
            begin = max(x for x in bounds if x < b)
            assert end - begin > limit


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.sampled_from(["wordpiece", "bytelevel", "unigram"]), st.integers(4, 20))
def test_offsets_point_at_the_text(text: str, kind: str, limit: int) -> None:
    document = Document("d", "T", text, "file", 1)
    passages = split_document(document, tokenizer_of(kind), PassageRules(limit))
    for passage in passages:
        assert passage.text == text[passage.start : passage.end] == passage.text.strip() != ""
        assert passage.sentences[0] == 0
        assert all(0 < s < len(passage.text) for s in passage.sentences[1:])
    ids = [passage.id for passage in passages]
    assert ids == (["d"] if len(ids) == 1 else [f"d#{k}" for k in range(len(ids))])
    covered = "".join(passage.text for passage in passages)
    kept = [c for c in text if not c.isspace()]
    if (
        kind != "bytelevel"
    ):  # there, a character of several tokens can be cut in two only if it alone is too long
        assert [c for c in covered if not c.isspace()] == kept


def words(text: str, limit: int, **rules: Any) -> list[str]:
    """Passages when every word is one token."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return [
        p.text for p in split_document(Document("d", "", text, "f"), tokenizer, PassageRules(limit, **rules))
    ]


def test_sentences_are_filled_in_greedily() -> None:
    assert words("One two. Three four. Five six seven. Eight.", 5) == [
        "One two. Three four.",
        "Five six seven. Eight.",
    ]


def test_a_long_sentence_is_cut() -> None:
    assert words("a b c d e f g. H i.", 3) == ["a b c", "d e f", "g. H i."]


def test_a_short_end_takes_sentences_over() -> None:
    text = "A b. C d. E f. G."
    assert words(text, 6) == ["A b. C d. E f.", "G."]
    assert words(text, 6, min_tokens=3) == ["A b. C d.", "E f. G."]
    assert words("A b c d e f. G.", 6, min_tokens=3) == ["A b c d e f.", "G."], "nothing to take over: kept"


def test_without_splitting_the_end_is_cut_off() -> None:
    assert words("One two. Three four five.", 4, split=False) == ["One two. Three four"]


def test_a_cut_prefers_spaces() -> None:
    tokenizer = tokenizer_of("bytelevel")
    word = "x" * 20
    count = len(tokenizer.encode(word).ids)
    assert count > 4
    passages = split_document(Document("d", "", f"{word} {word}", "f"), tokenizer, PassageRules(count + 1))
    assert [passage.text for passage in passages] == [word, word]


def test_empty_text_gives_no_passage() -> None:
    assert words(" \n ", 5) == []


@given(st.lists(st.lists(st.integers(0, 50), max_size=30), max_size=20))
def test_seen_keys_is_a_set(batches: list[list[int]]) -> None:
    seen, known = SeenKeys(), set()
    for batch in batches:
        expected = []
        for key in batch:
            expected.append(key not in known)
            known.add(key)
        assert seen.add(np.array(batch, dtype=np.uint64)).tolist() == expected
    assert len(seen) == len(known)


def test_duplicates_are_known_by_their_words() -> None:
    assert duplicate_key("T", "a  b\nc") == duplicate_key("T", " a b c ")
    assert duplicate_key("", "cafe\u0301") == duplicate_key("", "caf\u00e9")
    different = {
        duplicate_key(*pair) for pair in (("T", "a"), ("", "a"), ("", "T a"), ("", "A"), ("T a", ""))
    }
    assert len(different) == 5


@pytest.mark.parametrize("kind", ["wordpiece", "bytelevel", "unigram"])
def test_long_texts_are_tokenised_in_pieces_that_join(kind: str) -> None:
    sentence = "Salt river bridge under. "
    text = sentence * 2000
    spans = split_sentences(text)
    tokens = tokenise([text], [spans], tokenizer_of(kind))[0]
    starts = sentence_tokens(tokens, spans)
    assert len(starts) == 2000
    assert (np.diff(tokens.starts) >= 0).all()
    assert tokens.ends[-1] == len(text.rstrip())
    assert np.ptp(np.diff(starts)) <= 2, "the same sentence has the same tokens, but for the space before it"
