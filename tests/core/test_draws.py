"""Draws: equal to the integer reference, independent of the batch, and fair."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reference import draws as reference
from retromae.core import draws
from retromae.core.draws import Stream

ids = st.integers(0, 2**62)


def keys(seed: int, epoch: int, rows: list[int], stream: Stream = Stream.ENCODER_WORDS) -> torch.Tensor:
    (found,) = draws.stream_keys(
        draws.row_keys(seed, torch.full((len(rows),), epoch), torch.tensor(rows)), stream
    )
    return found


@given(seed=ids, epoch=st.integers(0, 2**40), rows=st.lists(ids, min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_equal_to_the_integer_reference(seed: int, epoch: int, rows: list[int]) -> None:
    got = keys(seed, epoch, rows)
    pairs = draws.at_pairs(got, 4)
    for b, row in enumerate(rows):
        expected = reference.row_key(seed, int(Stream.ENCODER_WORDS), epoch, row)
        assert got[b].item() == reference.signed(expected)
        for i in range(4):
            for j in range(4):
                assert pairs[b, i, j].item() == reference.signed(reference.at_pair(expected, i, j))


def test_a_row_draws_the_same_in_any_batch_order_and_length() -> None:
    alone = draws.at_pairs(keys(1, 2, [7]), 20)[0]
    together = draws.at_pairs(keys(1, 2, [9, 3, 7, 1]), 33)[2]
    assert torch.equal(alone, together[:20, :20])


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 3}, {"row": 8}, {"stream": Stream.DECODER_WORDS}])
def test_every_part_of_the_key_matters(change: dict[str, int]) -> None:
    def draw(
        seed: int = 1, epoch: int = 2, row: int = 7, stream: Stream = Stream.ENCODER_WORDS
    ) -> torch.Tensor:
        return draws.below(draws.at_positions(keys(seed, epoch, [row], stream), 4096), 0.5)

    agreement = (draw() == draw(**change)).float().mean().item()  # type: ignore[arg-type]
    assert 0.45 < agreement < 0.55


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5, 0.9, 1.0])
def test_shares_are_exact(share: float) -> None:
    drawn = draws.below(draws.at_pairs(keys(5, 0, list(range(40))), 100), share)
    n = drawn.numel()
    assert abs(drawn.float().mean().item() - share) <= 4 * (share * (1 - share) / n) ** 0.5


def test_pairs_are_uncorrelated_along_rows_columns_and_the_transpose() -> None:
    bits = draws.below(draws.at_pairs(keys(3, 1, list(range(30))), 128), 0.5).double() * 2 - 1
    n = bits[:, 1:, 1:].numel()
    for other in (bits[:, :-1, 1:], bits[:, 1:, :-1], bits[:, :-1, :-1]):
        assert abs((bits[:, 1:, 1:] * other).sum().item()) < 5 * n**0.5
    upper = torch.triu(torch.ones(128, 128, dtype=torch.bool), 1)
    assert abs((bits * bits.transpose(1, 2))[:, upper].sum().item()) < 5 * (30 * upper.sum().item()) ** 0.5


def test_uniform_is_uniform() -> None:
    values = draws.uniform(draws.at_positions(keys(0, 0, [1, 2, 3]), 5000)).flatten().double().numpy()
    assert values.min() >= 0 and values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-4


def words_of(sizes: list[int], length: int) -> list[int]:
    """[−1 for [CLS]] then the words, then −1 to the end."""
    words = [-1] + [w for w, size in enumerate(sizes) for _ in range(size)]
    return words + [-1] * (length - len(words))


@given(
    rows=st.lists(st.lists(st.integers(1, 4), max_size=8), min_size=1, max_size=4),
    share=st.floats(0, 1),
    seed=ids,
)
@settings(max_examples=100, deadline=None)
def test_chosen_words_equal_the_reference(rows: list[list[int]], share: float, seed: int) -> None:
    length = 40
    words = [words_of(sizes, length) for sizes in rows]
    order = draws.at_positions(keys(seed, 0, list(range(len(rows)))), length)
    rounding = draws.at_positions(keys(seed, 1, list(range(len(rows)))), 1)[:, 0]
    chosen = draws.choose_words(torch.tensor(words), share, order, rounding)
    for b in range(len(rows)):
        unsigned = [value & reference.M for value in order[b].tolist()]
        expected = reference.choose_words(words[b], share, unsigned, rounding[b].item() & reference.M)
        assert chosen[b].tolist() == expected


def choose(number: int, share: float, words: int) -> torch.Tensor:
    """(number, words): independent rows of `words` one-token words."""
    order = draws.at_positions(keys(11, 0, list(range(number))), words)
    rounding = draws.at_positions(keys(12, 0, list(range(number))), 1)[:, 0]
    return draws.choose_words(torch.arange(words).expand(number, words), share, order, rounding)


def test_every_set_of_words_is_equally_likely() -> None:
    # 6 words, half of them: all 20 sets of three.
    sets = Counter(tuple(row) for row in choose(40_000, 0.5, 6).tolist())
    assert len(sets) == 20
    assert stats.chisquare(list(sets.values())).pvalue > 1e-4


@pytest.mark.parametrize("words", [1, 2, 3, 7, 50])
def test_the_expected_share_is_exact_for_rows_of_any_size(words: int) -> None:
    chosen = choose(20_000, 0.3, words).sum(dim=1).double()
    assert set(chosen.tolist()) <= {float(int(0.3 * words)), float(int(0.3 * words) + 1)}
    assert abs(chosen.mean().item() - 0.3 * words) < 4 * chosen.std().item() / 20_000**0.5 + 1e-9


def test_order_is_a_permutation_and_a_pure_function() -> None:
    first, again, other = draws.order(1000, 1, 2), draws.order(1000, 1, 2), draws.order(1000, 1, 3)
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert abs(stats.spearmanr(first, np.arange(1000)).statistic) < 0.15
