"""The hash of core.draws with Python integers, one number at a time."""

from __future__ import annotations

M = 0xFFFFFFFF
GOLDEN, GOLDEN2 = 0x9E3779B9, 0x85EBCA6B


def mix(x: int) -> int:
    x &= M
    x ^= x >> 16
    x = x * 0x7FEB352D & M
    x ^= x >> 15
    x = x * 0x846CA68B & M
    x ^= x >> 16
    return x


def key(*parts: int) -> int:
    state = 0
    for part in parts:
        state = mix(state ^ (part & M))
        state = mix(state ^ ((part >> 32) & M) ^ GOLDEN)
    return state


def row_key(seed: int, stream: int, epoch: int, row: int) -> int:
    state = key(seed)
    for part in (epoch, row):
        state = mix(state ^ (part & M))
        state = mix(state ^ ((part >> 32) & M) ^ GOLDEN)
    return mix(state ^ key(stream))


def at_position(row: int, i: int) -> int:
    return mix(row + i * GOLDEN)


def at_pair(row: int, i: int, j: int) -> int:
    return mix(at_position(row, i) + j * GOLDEN2)


def signed(x: int) -> int:
    return x - (1 << 32) if x >= 1 << 31 else x


def below(x: int, share: float) -> bool:
    if share <= 0:
        return False
    if share >= 1:
        return True
    return signed(x) < round(share * 2**32) - 2**31


def choose_words(words: list[int], share: float, order: list[int], rounding: int) -> list[bool]:
    """Sort the words by their draw and take the first floor(share·W + u)."""
    if share >= 1:
        return [word >= 0 for word in words]
    number = max(words, default=-1) + 1
    u = ((rounding >> 8) & 0xFFFFFF) / 2**24
    chosen = int(number * share + u)
    ranked = sorted(range(number), key=lambda w: (signed(order[w]) << 16) | w)[:chosen]
    return [word in ranked for word in words]
