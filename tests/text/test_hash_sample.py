"""The sample: within its budget, whole, and the same in any order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retromae.text.hash_sample import HashSample

ITEMS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=40)


def sample(items: list[tuple[int, int]], budget: int) -> HashSample[tuple[int, int]]:
    found: HashSample[tuple[int, int]] = HashSample(budget)
    for key, weight in items:
        found.add(key, weight, (key, weight))
    return found


@given(ITEMS, st.integers(1, 60), st.randoms(use_true_random=False))
def test_the_smallest_keys_that_fit_in_any_order(items, budget, random) -> None:
    found = sample(items, budget)
    shuffled = list(items)
    random.shuffle(shuffled)
    assert sorted(found.items()) == sorted(sample(shuffled, budget).items())
    cut = [k for k in sorted({k for k, _ in items}) if sum(w for key, w in items if key <= k) > budget]
    assert sorted(found.items()) == sorted(i for i in items if not cut or i[0] < cut[0])
    assert found.complete == (not cut)
    assert len(found) == len(found.items())
