"""What may be said about a verdict, in words and in figures: verdict.json, system.json and the examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retromae.app.adapt.corpus import CorpusFacts
from retromae.app.adapt.judging import BM25_NAME, METRIC, METRICS, Judging
from retromae.app.adapt.verdict import DEPTH, UNTOUCHED, System, Verdict
from retromae.core.files import write_json
from retromae.core.ranking import Run
from retromae.evaluation.metrics import Metric
from retromae.evaluation.significance import Comparison, compare
from retromae.retrieval.lexical import BM25
from retromae.text.store import Passage

VERDICT, SYSTEM = "verdict.json", "system.json"
_EXAMPLES = 6


def sentence(verdict: Verdict) -> str:
    """The verdict, for people; all figures are of the test queries. There is no base where nothing was the start."""
    returned, by_name = verdict.returned, {system.name: system for system in verdict.systems}
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
    if proven:
        return f"Search on this text is better now: {returned.label} reaches {reached}, {against}."
    untouched = "Training on this text did not clearly help. " if returned.name in UNTOUCHED else ""
    if returned.by_rule:
        return (
            f"{untouched}This run returns {returned.label} about half and half, which is what served queries of people "
            "well wherever there were some to try; on queries made of this text its gain is not beyond doubt: "
            f"{reached}, {against}. Queries of your own (--pairs) would decide."
        )
    if returned.name in UNTOUCHED:
        return (
            f"{untouched}The untouched base, fused with BM25, won on the queries that choose and is what this run "
            f"returns, but its gain is not beyond doubt on those that prove: {reached}, {against}."
        )
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
            "sentence": sentence(verdict),
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
        "by_rule": system.by_rule,
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
