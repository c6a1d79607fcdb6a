"""Which system is returned, and what may be said about it.

Dev queries choose, test queries prove. What has been trained is returned only where it beats the best of the
untouched systems (the base, BM25, their fusion) on dev by more than the standard error of the difference: ties go to
what was there before. An embedder that was trained on queries made of the text is returned half way back to the base
only, unless queries of people judge: made-up ones flatter what was trained on such (docs/adapting.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from retromae.app.adapt.corpus import CorpusFacts
from retromae.app.adapt.judging import BM25_NAME, LEXICAL, METRIC, METRICS, Judging
from retromae.core.files import write_json
from retromae.core.ranking import Run
from retromae.evaluation.metrics import Metric, Result, mean_of
from retromae.evaluation.significance import Comparison, compare
from retromae.retrieval.fusion import weighted
from retromae.retrieval.lexical import BM25
from retromae.text.store import Passage

Kind = Literal["dense", "bm25", "fusion", "dense+lexical"]
VERDICT, SYSTEM = "verdict.json", "system.json"
FUSED = "+bm25"  # behind a system's name
DEPTH = 100
_WEIGHTS = np.arange(1, 10) / 10  # of the dense part
_EXAMPLES = 6
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
    sentence: str


def judge(judging: Judging) -> Verdict:
    """Measure every ranking and every fusion, and choose."""
    systems = list(_systems(judging))
    by_name = {system.name: system for system in systems}
    returned = _chosen(_eligible(systems, own_queries=judging.facts.judged_on != "corpus"))
    shown = [
        system
        for system in systems
        if system.kind != "fusion" or system.name in ("base" + FUSED, returned.stage + FUSED)
    ]
    return Verdict(shown, returned, sentence(returned, by_name))


def _systems(judging: Judging) -> Iterator[System]:
    def measured(name: str, kind: Kind, run: Run, weight: float | None = None) -> System:
        return System(
            name, kind, run, judging.result(name, run, "dev"), judging.result(name, run, "test"), weight
        )

    runs = {name: judging.read(name) for name in judging.ranked()}
    names = [f"{stage}{tail}" for stage in _LABELS for tail in ("", LEXICAL)]
    for name in names:
        if name in runs:
            kind: Kind = "bm25" if name == BM25_NAME else "dense+lexical" if LEXICAL in name else "dense"
            yield measured(name, kind, runs[name])
    for name in names:
        if name in runs and name != BM25_NAME:
            weight, run = _fused(judging, runs[name], runs[BM25_NAME])
            yield measured(name + FUSED, "fusion", run, weight)


def _fused(judging: Judging, dense: Run, lexical: Run) -> tuple[float, Run]:
    """The fusion with BM25 that is best on dev, over all queries."""
    dev = judging.split("dev")
    only = [_some(run, dev) for run in (dense, lexical)]

    def on_dev(weight: float) -> float:
        return mean_of(dev, weighted(only, [weight, 1 - weight], depth=DEPTH), METRIC)

    weight = float(max(_WEIGHTS, key=on_dev))
    return weight, weighted([dense, lexical], [weight, 1 - weight], depth=DEPTH)


def _some(run: Run, queries: Mapping[str, Any]) -> Run:
    return Run.from_dict(
        {query: dict(zip(run[query].ids, run[query].scores.tolist())) for query in queries if query in run}
    )


def _dev(system: System) -> float:
    return system.dev[METRIC]


def _eligible(systems: Sequence[System], *, own_queries: bool) -> list[System]:
    """What may be returned."""
    averaged = any(system.stage == "averaged" for system in systems)
    if own_queries or not averaged:
        return list(systems)
    return [s for s in systems if s.name in UNTOUCHED or s.stage == "averaged"]


def _chosen(systems: Sequence[System]) -> System:
    """The best on dev; the best untouched one unless what was trained is clearly better."""
    untouched = max((s for s in systems if s.name in UNTOUCHED), key=_dev)
    trained = [s for s in systems if s.name not in UNTOUCHED]
    if not trained:
        return untouched
    best = max(trained, key=_dev)
    a, b = best.dev.per_query[METRIC], untouched.dev.per_query[METRIC]
    gains = np.array([a[query] - b[query] for query in a])
    error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.inf
    return best if gains.mean() > error else untouched


# -- in words and figures ---------------------------------------------------------------------------------------


def sentence(returned: System, by_name: Mapping[str, System]) -> str:
    """The verdict, for people; all figures are of the test queries. There is no base where nothing was the start."""
    others = [by_name[name] for name in ("base", BM25_NAME) if name in by_name and name != returned.name]
    value = returned.test.metrics[METRIC]
    reached = f"{METRIC} {value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
    against = " and ".join(_against(returned, other) for other in others)
    if returned.name == "base":
        return (
            "Nothing that was tried is clearly better than the untouched base, so the base is what this run "
            f"returns: {reached}, {against}."
        )
    if returned.name == BM25_NAME:
        return (
            "BM25 wins: no model that was tried is clearly better, so plain word search is what this run returns: "
            f"{reached}" + (f", {against}." if others else ".")
        )
    proven = all(_difference(returned, other).low > 0 for other in others)
    if returned.name in UNTOUCHED and proven:
        return (
            "Training on this text did not clearly help; fusing the untouched base with BM25 does, and is what this "
            f"run returns: {reached}, {against}."
        )
    if returned.name in UNTOUCHED:
        return (
            "Training on this text did not clearly help. The untouched base, fused with BM25, won on the queries that "
            "choose and is what this run returns, but its gain is not beyond doubt on those that prove: "
            f"{reached}, {against}."
        )
    if proven:
        return f"Search on this text is better now: {returned.label} reaches {reached}, {against}."
    return (
        f"What was trained won on the queries that choose, but the gain is not beyond doubt on those that prove: "
        f"{returned.label} reaches {reached}, {against}."
    )


def _against(system: System, other: System) -> str:
    gap = _difference(system, other)
    return (
        f"{gap.difference:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] against {other.label} "
        f"({other.test[METRIC]:.3f})"
    )


def _difference(system: System, other: System) -> Comparison:
    return compare([other.test, system.test], METRIC)[0]


def write(verdict: Verdict, judging: Judging, run: Path) -> None:
    """verdict.json and system.json."""
    facts: CorpusFacts = judging.facts
    returned = verdict.returned
    references = [s for s in verdict.systems if s.name in ("base", BM25_NAME)]
    write_json(
        run / VERDICT,
        {
            "sentence": verdict.sentence,
            "returned": returned.name,
            "metric": METRIC,
            "seed": judging.config.seed,
            "queries": {
                "train": facts.train,
                "dev": facts.dev,
                "test": facts.test,
                "made_from": facts.made_from,
            },
            "passages": facts.passages,
            "passages_searched": len(judging.queries.passages),
            "systems": [_facts(system) for system in verdict.systems],
            "comparisons": [
                _compared(pair)
                for other in references
                for pair in compare(
                    [other.test, *(s.test for s in verdict.systems if s is not other)], METRIC
                )
            ],
            "examples": _examples(returned, verdict.systems, judging),
        },
    )
    kind = {"bm25": "bm25", "fusion": "fusion"}.get(returned.kind, "dense")
    write_json(run / SYSTEM, {"kind": kind, "weight": returned.weight, "depth": DEPTH})


def _facts(system: System) -> dict[str, Any]:
    metrics: dict[str, Metric] = system.test.metrics
    return {
        "name": system.name,
        "label": system.label,
        "kind": system.kind,
        "stage": None if system.stage in ("base", BM25_NAME) else system.stage,
        "weight": system.weight,
        "dev": system.dev[METRIC],
        "metrics": {name: asdict(metrics[name]) for name in METRICS},
    }


def _compared(pair: Comparison) -> dict[str, Any]:
    return {
        "system": pair.system,
        "against": pair.baseline,
        "difference": pair.difference,
        "low": pair.low,
        "high": pair.high,
        "p": pair.adjusted,
    }


def _examples(returned: System, systems: Sequence[System], judging: Judging) -> dict[str, Any]:
    """Test queries that were won and lost most clearly against the base, or for the base against BM25."""
    others = [s for s in systems if s.name in ("base", BM25_NAME) and s is not returned]
    if not others:
        return {"against": returned.name, "won": [], "lost": []}
    other = others[0]
    a, b = returned.test.per_query[METRIC], other.test.per_query[METRIC]
    gains = sorted(a, key=lambda query: (b[query] - a[query], query))
    won = [query for query in gains if a[query] > b[query]][:_EXAMPLES]
    lost = [query for query in reversed(gains) if a[query] < b[query]][:_EXAMPLES]
    words = BM25.build(judging.queries.passages, language=judging.config.language)
    places = {passage.id: place for place, passage in enumerate(judging.queries.passages)}
    tell = lambda query: _example(query, returned.run, other.run, judging, words, places)  # noqa: E731
    return {"against": other.name, "won": list(map(tell, won)), "lost": list(map(tell, lost))}


def _example(
    query: str, after: Run, before: Run, judging: Judging, words: BM25, places: Mapping[str, int]
) -> dict[str, Any]:
    answers = judging.queries.qrels[query]

    def first_answer(run: Run) -> tuple[int | None, str | None]:
        ids = run[query].ids if query in run else []
        found = next((place for place, name in enumerate(ids) if name in answers), None)
        return (None, None) if found is None else (found + 1, ids[found])

    (rank_after, name_after), (rank_before, name_before) = first_answer(after), first_answer(before)
    answer = name_after or name_before or min(answers)
    text = judging.queries.queries[query]
    return {
        "query": text,
        "answer": _passage(judging.passages[answer]),
        "rank_before": rank_before,
        "rank_after": rank_after,
        "before_first": _first(before, query, judging),
        "after_first": _first(after, query, judging),
        "terms": words.shares(text, [places[answer]])[0],
    }


def _first(run: Run, query: str, judging: Judging) -> dict[str, str]:
    found = run[query].ids if query in run else []
    return _passage(judging.passages[found[0]]) if found else {"id": "", "title": "", "text": ""}


def _passage(passage: Passage) -> dict[str, str]:
    return {"id": passage.id, "title": passage.title, "text": passage.text}
