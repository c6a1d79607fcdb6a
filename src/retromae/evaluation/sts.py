"""Semantic textual similarity: Spearman's correlation of cosine with people's scores.

Read as published (SentEval's layouts) or from one table:

- STS12 to STS16: `STS.input.SUBSET.txt` and `STS.gs.SUBSET.txt`; STS13 comes without its SMT part;
- STS-B: `sts-{train,dev,test}.csv`;  SICK-R: `SICK_{train,trial,test_annotated}.txt`;
- `sts.tsv` with the columns split, subset, score, sentence1, sentence2.

Papers report the years with the **"all" setting**: the pairs of all subsets in one list, one correlation.
Older ones took the mean over the subsets, plain or weighted by their sizes; all three are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from retromae.core.errors import UserError
from retromae.evaluation.vectors import Encode, Vectors, as_number, encode_once, read_columns, read_lines

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs with the similarity that people gave them."""

    first: list[str]
    second: list[str]
    scores: list[float]


@dataclass(frozen=True)
class StsResult:
    """Spearman correlations (-1 to 1). `all` is what papers report; `low`, `high` its 95 % interval."""

    name: str
    all: float
    low: float
    high: float
    mean: float
    weighted_mean: float
    subsets: dict[str, float]
    pairs: int


def read_sts(folder: str | Path, split: str = "test") -> dict[str, Pairs]:
    """Subset name → pairs, from a folder in one of the layouts above. STS12 to STS16 have no splits."""
    folder = Path(folder)
    if (folder / "sts.tsv").is_file():
        return _table(folder / "sts.tsv", split)
    if inputs := sorted(folder.glob("STS.input.*.txt")):
        return {path.name.removeprefix("STS.input.").removesuffix(".txt"): _year(path) for path in inputs}
    if (benchmark := folder / f"sts-{split}.csv").is_file():
        rows = read_columns(benchmark, 7, header=False)
        return {"STS-B": _pairs([(row[5], row[6], row[4]) for row in rows], benchmark)}
    sick = folder / f"SICK_{ {'dev': 'trial', 'test': 'test_annotated'}.get(split, split) }.txt"
    if sick.is_file():
        return {
            "SICK-R": _pairs([(row[1], row[2], row[3]) for row in read_columns(sick, 4, header=True)], sick)
        }
    raise UserError(
        f"{folder} holds no similarity data for split {split!r}: expected sts.tsv, STS.input.*.txt, "
        f"sts-{split}.csv or {sick.name}."
    )


def _pairs(rows: list[tuple[str, str, str]], path: Path) -> Pairs:
    if not rows:
        raise UserError(f"{path} holds no pair.")
    first, second, scores = zip(*rows)
    return Pairs(list(first), list(second), [as_number(score, path) for score in scores])


def _table(path: Path, split: str) -> dict[str, Pairs]:
    subsets: dict[str, list[tuple[str, str, str]]] = {}
    for part, subset, score, first, second, *_ in read_columns(path, 5, header=True):
        if part == split:
            subsets.setdefault(subset, []).append((first, second, score))
    if not subsets:
        raise UserError(f"{path} has no row of split {split!r}.")
    return {subset: _pairs(rows, path) for subset, rows in subsets.items()}


def _year(path: Path) -> Pairs:
    """One subset of a year's task; pairs that nobody scored have an empty line among the scores."""
    gold = path.with_name(path.name.replace("STS.input.", "STS.gs."))
    rows, scores = read_columns(path, 2, header=False), read_lines(gold)
    if len(rows) != len(scores):
        raise UserError(f"{path} has {len(rows)} pairs and {gold.name} {len(scores)} scores.")
    return _pairs([(row[0], row[1], score) for row, score in zip(rows, scores) if score.strip()], path)


def evaluate_sts(subsets: dict[str, Pairs], encode: Encode, *, name: str = "") -> StsResult:
    """Encode both sides and correlate. A zero vector has cosine 0 with everything."""
    if not subsets:
        raise UserError("there is no subset of pairs to evaluate on.")
    sizes = [len(pairs.scores) for pairs in subsets.values()]
    first = [text for pairs in subsets.values() for text in pairs.first]
    second = [text for pairs in subsets.values() for text in pairs.second]
    vectors = encode_once(encode, [*first, *second])
    similar = cosine(vectors[: len(first)], vectors[len(first) :])
    gold = np.concatenate([pairs.scores for pairs in subsets.values()])
    ends = np.cumsum(sizes)
    each = {
        subset: spearman(similar[end - size : end], gold[end - size : end])
        for subset, size, end in zip(subsets, sizes, ends.tolist())
    }
    correlations = list(each.values())
    low, high = _interval(similar, gold)
    return StsResult(
        name=name,
        all=spearman(similar, gold),
        low=low,
        high=high,
        mean=float(np.mean(correlations)),
        weighted_mean=float(np.average(correlations, weights=sizes)),
        subsets=each,
        pairs=len(gold),
    )


def cosine(first: Vectors, second: Vectors) -> Floats:
    """Row by row, (n, d) and (n, d) → (n,)."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = np.einsum("nd,nd->n", first, second)
    similar: Floats = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return similar


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Rank correlation with tied ranks averaged; 0 where one side is constant and has no order to compare."""
    return float(_pearson(rankdata(a)[None], rankdata(b)[None])[0])


def _pearson(a: Floats, b: Floats) -> Floats:
    """Row by row, (m, n) and (m, n) → (m,)."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    spread = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    correlation: Floats = np.divide((a * b).sum(axis=1), spread, out=np.zeros(len(a)), where=spread > 0)
    return correlation


def _interval(a: Floats, b: Floats, *, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap of Spearman's correlation over pairs."""
    generator = np.random.default_rng(seed)
    step = max(1, (1 << 20) // len(a))
    drawn: list[Floats] = []
    for start in range(0, draws, step):
        picks = generator.integers(0, len(a), size=(min(step, draws - start), len(a)))
        drawn.append(_pearson(rankdata(a[picks], axis=1), rankdata(b[picks], axis=1)))
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return float(low), float(high)
