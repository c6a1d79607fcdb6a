"""Where words begin, asked of the tokenizer itself.

`word_starts` looks at each vocabulary id once; a token then begins a word if its id does, or if it is the
first ordinary token of its row. No text and no offsets are needed afterwards, so whole-word masks can be
drawn from token rows alone.

| kind | how it is recognised | begins a word |
|---|---|---|
| WordPiece (BERT, ELECTRA, MPNet, …), BPE with `##` | the model's continuing prefix | has no prefix |
| byte-level BPE (RoBERTa, ModernBERT, …) | ByteLevel pre-tokenizer or decoder | starts with white space (`Ġ`) |
| SentencePiece (XLM-R, ALBERT, …) | Metaspace, or a normalizer that writes `▁` | starts with `▁` |
| WordLevel | the model | always |

In all of them a piece that starts with a letter of a script written without spaces (Chinese, Japanese,
Thai, Lao, Khmer, Burmese, …) begins a word too, otherwise a Chinese sentence would be one word; in
byte-level and SentencePiece vocabularies so does one that starts with punctuation or a symbol, which
WordPiece has split off already. A piece of a UTF-8 character that is not the first piece of it never begins
a word.

By design this differs from `encoding.word_ids()` where the vocabulary alone cannot tell: after punctuation
inside a chunk without spaces ("(bar") the letters belong to the punctuation's word, letters and digits that
touch ("v2") are one word, and in SentencePiece, whose own words are chunks between spaces, punctuation is a
word of its own.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from retromae.core.errors import UserError

Flags = npt.NDArray[np.bool_]

_KNOWN = "WordPiece, byte-level BPE, BPE with a continuing prefix, SentencePiece (Unigram or BPE), WordLevel"
_SPACE_MARK = "▁"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_UNUSED = re.compile(r"[\[<](?:unused|extra_id_|reserved)[ _]?\d+[\]>]")
# First letters of the Unicode names of the scripts that are written without spaces between words.
_SPACELESS = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "BOPOMOFO",
    "IDEOGRAPHIC",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TAI ",
)
_LEADS = frozenset((0xE2, *range(0xE3, 0xEA), *range(0xF0, 0xF5)))
"""First bytes of characters that begin a word wherever they stand: punctuation and symbols (U+2000 to 2FFF),
Chinese and Japanese (U+3000 to 9FFF), emoji and rare ideographs. Used where a piece ends inside its character."""


def word_starts(tokenizer: Any) -> Flags:
    """bool [len(tokenizer)]: whether the id begins a word. Takes any fast tokenizer of transformers."""
    backend = backend_of(tokenizer)
    begins = _rule(json.loads(backend.to_str()))
    added = backend.get_added_tokens_decoder()
    starts = np.ones(_size(tokenizer, backend), dtype=np.bool_)
    for piece, number in backend.get_vocab(with_added_tokens=True).items():
        if number not in added:
            starts[number] = begins(piece)
    return starts


def ordinary_ids(tokenizer: Any) -> Flags:
    """bool [len(tokenizer)]: False for ids that never stand for a word of a text.

    These are the special tokens ([CLS], [SEP], [MASK], padding, unknown, begin, end, additional ones), places
    kept free in the vocabulary ("[unused7]") and numbers that no piece has.
    """
    backend = backend_of(tokenizer)
    ordinary = np.zeros(_size(tokenizer, backend), dtype=np.bool_)
    for piece, number in backend.get_vocab(with_added_tokens=True).items():
        ordinary[number] = not _UNUSED.fullmatch(piece)
    for number, token in backend.get_added_tokens_decoder().items():
        if token.special:
            ordinary[number] = False
    ordinary[[number for number in getattr(tokenizer, "all_special_ids", []) if number is not None]] = False
    return ordinary


def backend_of(tokenizer: Any) -> Any:
    """The `tokenizers.Tokenizer` behind a transformers tokenizer (or the thing itself)."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):
        raise UserError(
            f"The tokenizer {type(tokenizer).__name__} is written in Python; a fast one (with a tokenizer.json) "
            "is needed, for speed and to know where words begin."
        )
    return backend


def _size(tokenizer: Any, backend: Any) -> int:
    highest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    return max(highest, len(tokenizer) if hasattr(tokenizer, "__len__") else 0)


def _rule(layout: dict[str, Any]) -> Callable[[str], bool]:
    """The test "does this piece begin a word" for a tokenizer's own description (its tokenizer.json)."""
    model = layout["model"]
    parts = [part for name in ("normalizer", "pre_tokenizer", "decoder") for part in _parts(layout.get(name))]
    kinds = {part["type"] for part in parts}
    if model["type"] == "WordLevel":
        return lambda piece: True
    if model["type"] == "WordPiece":
        return _prefixed(model["continuing_subword_prefix"])
    if model["type"] == "BPE" and model.get("end_of_word_suffix"):
        suffix = model["end_of_word_suffix"]
        raise UserError(
            f"This BPE marks the ends of words ({suffix!r}), not their beginnings, so whole words cannot be told "
            f"from ids; use another tokenizer. Known are: {_KNOWN}."
        )
    if model["type"] == "BPE" and model.get("continuing_subword_prefix"):
        return _prefixed(model["continuing_subword_prefix"])
    if model["type"] == "BPE" and "ByteLevel" in kinds:
        return _byte_level
    if model["type"] in ("BPE", "Unigram") and any(_writes_space_mark(part) for part in parts):
        return _sentence_piece
    raise UserError(
        f"It is not known how this tokenizer (model {model['type']}, parts {', '.join(sorted(kinds)) or 'none'}) "
        f"marks where words begin; known are: {_KNOWN}."
    )


def _parts(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A normalizer, pre-tokenizer or decoder, and those inside a Sequence of them."""
    if part is None:
        return
    yield part
    for name in ("normalizers", "pretokenizers", "decoders"):
        for inner in part.get(name, ()):
            yield from _parts(inner)


def _writes_space_mark(part: dict[str, Any]) -> bool:
    return part["type"] == "Metaspace" or (part["type"] == "Replace" and part.get("content") == _SPACE_MARK)


def _prefixed(prefix: str) -> Callable[[str], bool]:
    def begins(piece: str) -> bool:
        inner = piece.removeprefix(prefix)
        return inner == piece or not inner or _spaceless_letter(inner[0])

    return begins


def _sentence_piece(piece: str) -> bool:
    if byte := _BYTE.fullmatch(piece):
        return _bytes_begin(bytes([int(byte[1], 16)]))
    return piece.startswith(_SPACE_MARK) or _begins_anywhere(piece[:1])


def _byte_level(piece: str) -> bool:
    table = _byte_of_character()
    if any(character not in table for character in piece):
        return _begins_anywhere(piece[:1])  # not written in bytes: a token that was added by hand
    return _bytes_begin(bytes(table[character] for character in piece))


def _bytes_begin(content: bytes) -> bool:
    lead = content[0]
    if 0x80 <= lead < 0xC0:  # goes on inside a character
        return False
    length = 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if len(content) < length:
        return lead in _LEADS
    character = content[:length].decode("utf-8", errors="replace")
    return character.isspace() or _begins_anywhere(character)


def _begins_anywhere(character: str) -> bool:
    """Whether a piece that starts so begins a word also where no space stands before it."""
    return unicodedata.category(character)[0] in "PS" or _spaceless_letter(character) if character else False


def _spaceless_letter(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Lo", "Lm", "Nl") and unicodedata.name(character, "").startswith(_SPACELESS)


@cache
def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes a byte as the character of its number if printable, else as one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + place): byte for place, byte in enumerate(others)}
