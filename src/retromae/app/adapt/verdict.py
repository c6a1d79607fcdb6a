"""Which system is returned.

Dev queries choose, test queries prove. What has been trained is returned only where it beats the best of the
untouched systems (the base, BM25, their fusion) on dev by more than the standard error of the difference: ties go to
what was there before. Two things are not left to queries that are made of the text (docs/adapting.md). They flatter
what was trained on such: an embedder is returned half way back to the base only. And they share fewer words with
their answers than people's do: a model and BM25 that find about as much are fused about half and half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from retromae.app.adapt.judging import BM25_NAME, LEXICAL, METRIC, Judging
from retromae.core.ranking import Run
from retromae.evaluation.metrics import Result, mean_of
from retromae.retrieval.fusion import weighted

Kind = Literal["dense", "bm25", "fusion", "dense+lexical"]
FUSED = "+bm25"  # behind a system's name
DEPTH = 100
_WEIGHTS = tuple(tenths / 10 for tenths in range(1, 10))  # of the dense part
_HALVES = (
    0.4,
    0.5,
    0.6,
)  # for queries of people the best of all, or nearly, on the five sets that were tried
_COMPARABLE = 2 / 3  # what the worse one must find of what the better one finds: a weak model spoils BM25
_LABELS = {
    "base": "the untouched base",
    "pretrained": "pre-trained on the text",
    "contrastive": "trained on pairs from the text",
    "hard": "trained again with mined negatives",
    "averaged": "half way between the base and what was trained",
    "bm25": "BM25",
}
UNTOUCHED = {"base", BM25_NAME, "base" + FUSED}


@dataclass
class System:
    """One system, measured on dev and on test."""

    name: str
    kind: Kind
    run: Run
    dev: Result
    test: Result
    weight: float | None = None
    by_rule: bool = False  # fused about half and half, whatever dev queries would have

    @property
    def stage(self) -> str:
        """base, bm25, or the stage that made its model."""
        return self.name.removesuffix(FUSED).removesuffix(LEXICAL)

    @property
    def label(self) -> str:
        label = _LABELS[self.stage]
        label += ", dense + lexical" if LEXICAL in self.name else ""
        return label + (", fused with BM25" if self.kind == "fusion" else "")


@dataclass
class Verdict:
    systems: list[System]
    returned: System


def judge(judging: Judging) -> Verdict:
    """Measure every ranking and every fusion, and choose."""
    systems = list(_systems(judging))
    returned = _chosen(_eligible(systems, own_queries=judging.facts.judged_on != "corpus"))
    shown = [
        system
        for system in systems
        if system.kind != "fusion" or system.name in ("base" + FUSED, returned.stage + FUSED)
    ]
    return Verdict(shown, returned)


def _systems(judging: Judging) -> Iterator[System]:
    def measured(name: str, kind: Kind, run: Run, *fused: Any) -> System:
        return System(
            name, kind, run, judging.result(name, run, "dev"), judging.result(name, run, "test"), *fused
        )

    runs = {name: judging.read(name) for name in judging.ranked()}
    names = [f"{stage}{tail}" for stage in _LABELS for tail in ("", LEXICAL)]
    alone = {}
    for name in names:
        if name in runs:
            kind: Kind = "bm25" if name == BM25_NAME else "dense+lexical" if LEXICAL in name else "dense"
            alone[name] = measured(name, kind, runs[name])
            yield alone[name]
    made_up = judging.facts.judged_on == "corpus"
    for name in names:
        if name in runs and name != BM25_NAME:
            by_rule = made_up and _comparable(alone[name], alone[BM25_NAME])
            weight = _best_weight(judging, runs[name], runs[BM25_NAME], _HALVES if by_rule else _WEIGHTS)
            run = weighted([runs[name], runs[BM25_NAME]], [weight, 1 - weight], depth=DEPTH)
            yield measured(name + FUSED, "fusion", run, weight, by_rule)


def _comparable(a: System, b: System) -> bool:
    """Unless one clearly finds less than its share of the other: few queries cannot tell, and do not weigh either."""
    worse, better = sorted([a, b], key=_dev)
    gap = _gap(worse, better, _COMPARABLE)
    return gap.mean >= -gap.error


def _best_weight(judging: Judging, dense: Run, lexical: Run, weights: Sequence[float]) -> float:
    """Of these shares of the dense part, the one of the fusion with BM25 that is best on dev."""
    dev = judging.split("dev")
    only = [_some(run, dev) for run in (dense, lexical)]

    def on_dev(weight: float) -> float:
        return mean_of(dev, weighted(only, [weight, 1 - weight], depth=DEPTH), METRIC)

    return max(weights, key=on_dev)


def _some(run: Run, queries: Mapping[str, Any]) -> Run:
    return Run.from_dict(
        {query: dict(zip(run[query].ids, run[query].scores.tolist())) for query in queries if query in run}
    )


def _dev(system: System) -> float:
    return system.dev[METRIC]


def _eligible(systems: Sequence[System], *, own_queries: bool) -> list[System]:
    """What may be returned."""
    if own_queries:
        return list(systems)
    averaged = any(system.stage == "averaged" for system in systems)
    kept = [s for s in systems if not averaged or s.name in UNTOUCHED or s.stage == "averaged"]
    by_rule = {system.name.removesuffix(FUSED) for system in kept if system.by_rule}
    return [system for system in kept if system.name not in by_rule]


def _chosen(systems: Sequence[System]) -> System:
    """The best on dev; the untouched one unless what was trained is clearly better, and of the untouched the fusion by
    rule, where there is one, unless BM25 alone is beyond doubt: on no set of people's queries was it."""
    untouched = [system for system in systems if system.name in UNTOUCHED]
    best = max(untouched, key=_dev)
    kept = next((system for system in untouched if system.by_rule), best)
    kept = best if _clearly_better(best, kept, errors=2) else kept
    trained = [system for system in systems if system.name not in UNTOUCHED]
    challenger = max(trained, key=_dev, default=kept)
    return challenger if _clearly_better(challenger, kept) else kept


def _clearly_better(a: System, b: System, errors: int = 1) -> bool:
    gap = _gap(a, b)
    return gap.mean > errors * gap.error


class _Gap(NamedTuple):
    mean: float
    error: float  # its standard error


def _gap(a: System, b: System, share: float = 1.0) -> _Gap:
    """How much more `a` finds than that share of what `b` finds, on dev."""
    left, right = a.dev.per_query[METRIC], b.dev.per_query[METRIC]
    gaps = np.array([left[query] - share * right[query] for query in left])
    error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.inf
    return _Gap(float(gaps.mean()), float(error))
