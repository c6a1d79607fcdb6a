"""Word starts from the vocabulary, held against what fast tokenizers say with the text before them."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from retromae.core.errors import UserError
from retromae.text.words import ordinary_ids, word_starts

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
PLAIN = [
    "The quick brown foxes were jumping over twelve lazy dogs unhappily",
    "Unbelievable things happen when rivers flood the northern valleys",
    "Привет как дела сегодня утром",
    "naïve cafés serve crème brûlée",
    "שלום לכולם היום",
]
PUNCTUATED = ["Wait, what? Yes: (or not) a well-known e-mail!", "It costs 3.50, doesn't it; v2 of foo_bar."]
CHINESE = [
    "今天天气很好，我们去公园吧。",
    "北京 is the capital and 東京 too",
    "ありがとうございます。カタカナです",
]


@cache
def tokenizer_of(kind: str) -> Any:
    texts = (PLAIN + PUNCTUATED + CHINESE) * 3
    sizes: dict[str, Any] = {"special_tokens": SPECIAL, "show_progress": False}
    if kind == "wordpiece":
        backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=300, **sizes)
    elif kind == "bytelevel":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, **sizes)
    elif kind == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=180, unk_token="<unk>", **sizes)
    else:  # SentencePiece BPE in the layout of Llama: the mark is written by the normalizer
        backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Replace("▁", " ")
        trainer = trainers.BpeTrainer(vocab_size=250, **sizes)
    backend.train_from_iterator([t.replace(" ", "\n") for t in texts] if kind == "sp_bpe" else texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", mask_token="<mask>")


def both(kind: str, text: str) -> tuple[list[str], list[bool], list[bool]]:
    """(pieces, does ours begin a word, does the tokenizer's own) for a text."""
    tokenizer = tokenizer_of(kind)
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    ours = word_starts(tokenizer)[encoding.ids]
    ours[0] = True
    words = encoding.word_ids
    theirs = [i == 0 or words[i] != words[i - 1] for i in range(len(words))]
    return [text[a:b] for a, b in encoding.offsets], ours.tolist(), theirs


@pytest.mark.parametrize("kind", ["wordpiece", "bytelevel", "unigram"])
@pytest.mark.parametrize("text", PLAIN)
def test_words_between_spaces_agree_exactly(kind: str, text: str) -> None:
    pieces, ours, theirs = both(kind, text)
    assert ours == theirs, pieces
    assert len(pieces) > sum(ours), "the vocabulary must be small enough to split some words"


@pytest.mark.parametrize("text", PUNCTUATED)
def test_wordpiece_agrees_on_punctuation(text: str) -> None:
    _, ours, theirs = both("wordpiece", text)
    assert ours == theirs


@pytest.mark.parametrize("text", PUNCTUATED)
def test_bytelevel_misses_only_what_the_vocabulary_cannot_tell(text: str) -> None:
    """After punctuation, or between letters and digits, inside a chunk without spaces."""
    pieces, ours, theirs = both("bytelevel", text)
    for i, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        if own and not other:  # a run of marks in several pieces
            assert unicodedata.category(pieces[i][0])[0] in "PS"
        elif other and not own:
            assert not pieces[i - 1][-1].isalpha() or pieces[i][0].isdigit()


@pytest.mark.parametrize("text", PUNCTUATED)
def test_in_sentencepiece_punctuation_is_a_word_of_its_own(text: str) -> None:
    pieces, ours, theirs = both("unigram", text)
    for piece, own, other in zip(pieces, ours, theirs, strict=True):
        assert own == (other or unicodedata.category(piece[0])[0] in "PS")


@pytest.mark.parametrize("kind", ["wordpiece", "bytelevel", "unigram"])
@pytest.mark.parametrize("text", CHINESE)
def test_text_without_spaces_is_not_one_word(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    starts = word_starts(tokenizer)[encoding.ids]
    for i, ((a, b), begins) in enumerate(zip(encoding.offsets, starts, strict=True)):
        piece = text[a:b].strip()
        inside_character = i > 0 and encoding.offsets[i - 1][1] > a
        if piece and not inside_character and unicodedata.category(piece[0]) == "Lo":
            assert begins, (piece, i)


def test_pieces_inside_a_character_never_begin_a_word() -> None:
    tokenizer = tokenizer_of("bytelevel")
    starts = word_starts(tokenizer)
    encoding = tokenizer.backend_tokenizer.encode(
        "鑫", add_special_tokens=False
    )  # not in the vocabulary: bytes
    assert len(encoding.ids) > 1
    assert starts[encoding.ids].tolist() == [True] + [False] * (len(encoding.ids) - 1)


def test_marks_written_by_the_normalizer_and_bytes_as_pieces() -> None:
    tokenizer = tokenizer_of("sp_bpe")
    vocabulary = tokenizer.get_vocab()
    starts = word_starts(tokenizer)
    assert all(starts[number] for piece, number in vocabulary.items() if piece.startswith("▁"))
    assert not any(
        starts[number] for piece, number in vocabulary.items() if piece.isascii() and piece.isalpha()
    )
    backend = Tokenizer(models.BPE({"<0xE4>": 0, "<0xB8>": 1, "<0x61>": 2, "▁a": 3}, [], byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    assert word_starts(backend).tolist() == [True, False, False, True]


def test_ordinary_ids() -> None:
    vocabulary = {"[PAD]": 0, "[unused1]": 1, "[CLS]": 2, "[MASK]": 3, "[UNK]": 4, "word": 5, "##s": 6}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")),
        **{"pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]", "unk_token": "[UNK]"},
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<user>"]})
    tokenizer.add_tokens(["plainly"])
    expected = np.zeros(9, dtype=bool)
    names = tokenizer.get_vocab()
    expected[[5, 6, names["plainly"]]] = True
    assert ordinary_ids(tokenizer).tolist() == expected.tolist()
    assert word_starts(tokenizer).shape == expected.shape
    assert word_starts(tokenizer)[[5, 6, names["plainly"]]].tolist() == [True, False, True]


@pytest.mark.parametrize("kind", ["wordpiece", "bytelevel", "unigram", "sp_bpe"])
def test_no_special_token_is_ordinary(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    ordinary = ordinary_ids(tokenizer)
    assert ordinary.sum() == len(tokenizer) - len(SPECIAL)
    assert not ordinary[tokenizer.convert_tokens_to_ids(SPECIAL)].any()


def test_tokenizers_that_cannot_tell_are_refused() -> None:
    suffixed = Tokenizer(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>"))
    plain = Tokenizer(models.BPE({"a": 0}, []))
    for backend in (suffixed, plain):
        with pytest.raises(UserError, match=r"WordPiece.*SentencePiece"):
            word_starts(PreTrainedTokenizerFast(tokenizer_object=backend))
    with pytest.raises(UserError, match="fast"):
        word_starts(object())
