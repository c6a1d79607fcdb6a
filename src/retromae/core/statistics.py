"""How sure a figure is: bootstrap intervals, the paired randomisation test, Holm's correction.

All three are pure functions of their arguments (the seed included). They resample in chunks, so that memory
stays flat in the number of draws.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from retromae.core.errors import UserError

Floats = npt.NDArray[np.float64]

_CHUNK = 1 << 20  # resampled numbers held at once: 8 MiB of indices


def _vector(values: npt.ArrayLike, name: str) -> Floats:
    vector: Floats = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not vector.size:
        raise UserError(f"{name} must be a list of at least one number, got shape {vector.shape}.")
    if not np.isfinite(vector).all():
        raise UserError(f"{name} hold a NaN or an infinity; find out which query gave it first.")
    return vector


def _chunks(draws: int, width: int) -> Iterator[int]:
    """Sizes of the pieces that `draws` rows of `width` numbers are made in."""
    if draws < 1:
        raise UserError(f"draws must be at least 1, got {draws}.")
    step = max(1, _CHUNK // width)
    for start in range(0, draws, step):
        yield min(step, draws - start)


def bootstrap_interval(
    values: npt.ArrayLike, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval (low, high) of the mean of `values`."""
    sample = _vector(values, "values")
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1, got {level}.")
    generator = np.random.default_rng(seed)
    n = sample.size
    means = [sample[generator.integers(0, n, size=(c, n))].mean(axis=1) for c in _chunks(draws, n)]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def paired_randomisation(a: npt.ArrayLike, b: npt.ArrayLike, *, draws: int = 10000, seed: int = 0) -> float:
    """Two-sided p of "a and b have the same mean", from random flips of the sign of each pair's difference.

    Counts the observed assignment as one of the draws (the +1 correction), so p is never 0 and the test keeps
    its level.
    """
    first, second = _vector(a, "a"), _vector(b, "b")
    if first.shape != second.shape:
        raise UserError(f"a paired test needs pairs, got {first.size} and {second.size} values.")
    difference = first - second
    n = difference.size
    total = difference.sum()
    # Sums of the same numbers in another order differ in the last bits; such draws are ties and count.
    threshold = abs(total) - 1e-12 * np.abs(difference).sum()
    generator = np.random.default_rng(seed)
    extreme = 0
    for c in _chunks(draws, n):
        octets = generator.integers(0, 256, size=(c, -(-n // 8)), dtype=np.uint8)
        kept = np.unpackbits(octets, axis=1, count=n).astype(np.float64)  # (c, n) of 0 and 1
        flipped_sums = 2 * (kept @ difference) - total
        extreme += int(np.count_nonzero(np.abs(flipped_sums) >= threshold))
    return (extreme + 1) / (draws + 1)


def holm(pvalues: npt.ArrayLike) -> Floats:
    """Holm's step-down adjustment, in the order given: reject where the adjusted p is at most the level."""
    p: Floats = np.asarray(pvalues, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise UserError("Holm's correction needs a list of p-values between 0 and 1.")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return adjusted
