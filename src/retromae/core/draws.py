"""Random numbers as a pure function of (seed, stream, epoch, row, position).

Masks are not drawn from a generator that remembers: every draw is an integer hash of what it belongs to. So the
same row gets the same mask in whichever batch, rank, machine, order or resumed run it lands, CPU and GPU agree to
the bit, and nothing has to be saved to resume. Everything is int32 arithmetic that wraps, vectorised on the device.

The mixer is a 32-bit finaliser of two multiplications ("lowbias32"); `tests/reference/draws.py` restates it with
Python integers.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_M1 = 0x7FEB352D
_M2 = 0x846CA68B
_GOLDEN = 0x9E3779B9  # spreads consecutive positions
_GOLDEN2 = 0x85EBCA6B  # spreads the second position of a pair
_MASK32 = 0xFFFFFFFF


class Stream(IntEnum):
    """One number per use, so that two uses of the same row and position never share a draw."""

    ENCODER_WORDS = 1  # which words are masked
    ENCODER_COUNT = 2  # how many: the fraction that rounding leaves
    ENCODER_KIND = 3  # [MASK], random token or unchanged
    ENCODER_TOKEN = 4  # which random token
    DECODER_WORDS = 5
    DECODER_COUNT = 6
    DECODER_KIND = 7
    DECODER_TOKEN = 8
    DECODER_VISIBLE = 9  # enhanced decoding: what row i sees
    BATCHES = 10  # the order of rows and batches
    HOLDOUT = 11  # which documents are held out
    DROPOUT = 12
    PROBE = 13  # which sentence the retrieval probe cuts out
    POSITIVES = 14  # fine-tuning: which of a query's answers is trained on
    NEGATIVES = 15  # fine-tuning: which of its candidates
    CUT = 16  # coCondenser: where a row is cut into two spans
    RUN_WORDS = 17  # LaPraDoR: how many words of a row become its query
    RUN_START = 18  # LaPraDoR: with which word they begin
    RUN_REMOVED = 19  # LaPraDoR: are they taken out of the document?
    REPLACEMENT = 20  # DiffCSE: which word the generator puts in
    DECODER_ASKED = 21  # which tokens a decoder is asked for


def _signed(value: int) -> int:
    """The 32-bit pattern of `value` as the signed integer that an int32 tensor holds."""
    value &= _MASK32
    return value - (1 << 32) if value >= 1 << 31 else value


def mix_int(value: int) -> int:
    """The mixer on one Python integer, taken and given as unsigned 32 bits."""
    value &= _MASK32
    value ^= value >> 16
    value = value * _M1 & _MASK32
    value ^= value >> 15
    value = value * _M2 & _MASK32
    return value ^ value >> 16


def mix_(x: Tensor) -> Tensor:
    """The mixer in place on an int32 tensor. (`>>` keeps the sign, hence the masks.)"""
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    x *= _signed(_M1)
    x ^= (x >> 15).bitwise_and_(0x1FFFF)
    x *= _signed(_M2)
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    return x


def key(*parts: int) -> int:
    """One unsigned 32-bit number from several integers of up to 64 bits; the order of the parts matters."""
    state = 0
    for part in parts:
        state = mix_int(state ^ (part & _MASK32))
        state = mix_int(state ^ (part >> 32 & _MASK32) ^ _GOLDEN)
    return state


def row_keys(seed: int, epochs: Tensor, row_ids: Tensor) -> Tensor:
    """(B,) int32 keys, one per row of the batch; `epochs` and `row_ids` are (B,) int64."""
    keys = torch.full_like(row_ids, _signed(key(seed)), dtype=torch.int32)
    for part in (epochs, row_ids):
        keys = mix_(keys ^ part.to(torch.int32))
        keys = mix_(keys ^ (part >> 32).to(torch.int32) ^ _signed(_GOLDEN))
    return keys


def stream_keys(keys: Tensor, *streams: Stream) -> Tensor:
    """(S, B) int32: the rows' keys for each of S uses."""
    marks = [
        _signed(key(int(stream))) for stream in streams
    ]  # numbers: a tensor of them would have to be copied
    return mix_(torch.stack([keys ^ mark for mark in marks]))


def at_positions(keys: Tensor, length: int) -> Tensor:
    """(B, length) int32: one draw for every position of every row."""
    steps = torch.arange(length, device=keys.device, dtype=torch.int32) * _signed(_GOLDEN)
    return mix_(keys[:, None] + steps)


def at_pairs(keys: Tensor, length: int) -> Tensor:
    """(B, length, length) int32: one draw for every ordered pair of positions (i, j) of every row."""
    steps = torch.arange(length, device=keys.device, dtype=torch.int32) * _signed(_GOLDEN2)
    return mix_(at_positions(keys, length)[:, :, None] + steps)


def below(draws: Tensor, share: float) -> Tensor:
    """True with probability `share`, exactly to 32 bits: the draws are uniform over the signed range."""
    if share <= 0.0:
        return torch.zeros_like(draws, dtype=torch.bool)
    if share >= 1.0:
        return torch.ones_like(draws, dtype=torch.bool)
    return draws < below_limit(share)


def below_limit(share: float) -> int:
    """What draws, as 64-bit integers, are below with probability `share`."""
    return round(min(max(share, 0.0), 1.0) * 2**32) - 2**31


def uniform(draws: Tensor) -> Tensor:
    """float32 in [0, 1), from the upper 24 bits."""
    return (draws >> 8).bitwise_and(0xFFFFFF).to(torch.float32) * 2.0**-24


def choose_words(words: Tensor, share: float, order: Tensor, rounding: Tensor) -> Tensor:
    """Choose `share` of the words of every row, each set of that size equally likely.

    words    (B, L) int64: index of the word that a token belongs to, -1 where there is none
    order    (B, L) int32 draws; the first W of a row order its W words
    rounding (B,)   int32 draws: a row of W words has floor(share·W + u) chosen, u uniform in [0, 1), so that the
             expected share is exact for rows of any size, a row of one word included
    returns  (B, L) bool: the token belongs to a chosen word
    """
    length = words.shape[1]
    if share >= 1.0:
        return words >= 0
    counts = words.amax(dim=1) + 1  # (B,) words in the row
    chosen = (counts.to(torch.float64) * share + uniform(rounding).to(torch.float64)).floor().to(torch.int64)
    # The position in the low bits makes every key unique, so a tie cannot choose one word too many.
    index = torch.arange(length, device=words.device)
    keys = (order.to(torch.int64) << 16) | index
    keys = keys.masked_fill(index[None, :] >= counts[:, None], torch.iinfo(torch.int64).max)
    last = keys.sort(dim=1).values.gather(1, (chosen - 1).clamp_(min=0)[:, None])  # largest chosen key
    by_word = (keys <= last) & (chosen > 0)[:, None]  # (B, L), indexed by word
    return by_word.gather(1, words.clamp(min=0)) & (words >= 0)


def order(n: int, *parts: int) -> NDArray[np.int64]:
    """A permutation of range(n) as a pure function of `parts`: sorted by a 64-bit hash (splitmix64)."""
    keys = np.arange(n, dtype=np.uint64)
    keys += np.uint64(key(*parts) << 32 | key(*parts, 1))
    return np.argsort(mix64(keys), kind="stable")


def mix64(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser on an array of unsigned 64-bit numbers."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
