"""Words of many texts at once, as 64-bit hashes: for counting and comparing whole corpora at the speed of numpy.

A word here is a run of letters, digits and combining marks; in scripts written without spaces (Chinese, Japanese,
Thai, …) every letter is one. Case does not matter. The hash of a word is a polynomial in its characters modulo 2⁶⁴,
taken from running sums, so that no word is ever cut out of its text; then it is mixed (splitmix64).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from retromae.core.draws import mix64

Hashes = npt.NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_TABLE = 0x20000  # characters beyond are ideographs, and rare
_OTHER, _LETTER, _ALONE = 0, 1, 2
# First words of the Unicode names of letters that are written without spaces between words.
_SPACELESS = (
    *("CJK ", "HIRAGANA", "KATAKANA", "BOPOMOFO", "IDEOGRAPHIC"),
    *("THAI ", "LAO ", "KHMER ", "MYANMAR ", "TAI "),
)


class Words(NamedTuple):
    """The words of some texts, one text after the other."""

    hashes: Hashes  # (n,)
    counts: npt.NDArray[np.int64]  # (texts,) words of each


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """(0x20000,) what every character does in a word."""
    return np.fromiter((_kind(chr(code)) for code in range(_TABLE)), dtype=np.uint8, count=_TABLE)


def _kind(character: str) -> int:
    category = unicodedata.category(character)
    if category[0] not in "LNM":
        return _OTHER
    if category in ("Lo", "Lm", "Nl") and unicodedata.name(character, "").startswith(_SPACELESS):
        return _ALONE
    spaceless_mark = category[0] == "M" and unicodedata.name(character, "").startswith(_SPACELESS)
    return _OTHER if spaceless_mark else _LETTER


@cache
def _powers(size: int, base: int) -> Hashes:
    """1, base, base², … modulo 2⁶⁴."""
    powers = np.full(size, base, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


def words_of(texts: Sequence[str]) -> Words:
    """All words of the texts. About 60 bytes are held for each character, so call it with a million or so."""
    lowered = [text.lower() for text in texts]
    lengths = np.fromiter(map(len, lowered), dtype=np.int64, count=len(lowered))
    encoded = "\n".join(lowered).encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(encoded, dtype=np.uint32)  # (characters,)
    kinds = np.where(codes < _TABLE, _kinds()[np.minimum(codes, _TABLE - 1)], _ALONE)
    before = np.concatenate([np.zeros(1, dtype=kinds.dtype), kinds[:-1]])
    after = np.concatenate([kinds[1:], np.zeros(1, dtype=kinds.dtype)])
    alone, letter = kinds == _ALONE, kinds == _LETTER
    starts = np.flatnonzero(alone | letter & (before != _LETTER))
    ends = np.flatnonzero(alone | letter & (after != _LETTER)) + 1
    size = 1 << max(len(codes), 1).bit_length()  # few sizes, so that few tables of powers are made
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * _powers(size, _BASE)[: len(codes)], out=sums[1:])
    hashes = (sums[ends] - sums[starts]) * _powers(size, _INVERSE)[starts]
    begins = np.cumsum(lengths + 1) - lengths - 1  # of the texts, with the line break between them
    bounds = np.searchsorted(starts, np.append(begins, len(codes) + 1))
    return Words(mix64(hashes), np.diff(bounds))
