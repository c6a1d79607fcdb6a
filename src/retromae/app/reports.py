"""What an evaluation found, for people and for files.

results.json                       every figure with its interval, how it was made, what was noticed
table.txt .md .tex .json           one table of each kind of set
comparisons.json                   every pair in every metric: difference, interval, p, p after Holm
per_query/SET/SYSTEM.json          the values behind the means
runs/SET/SYSTEM.trec               the rankings, in TREC's format
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retromae.app.evaluate import Form, Report, SetOutcome
from retromae.core.errors import UserError
from retromae.core.files import write_json, write_text
from retromae.core.ranking import write_trec
from retromae.core.runs import facts_about_here
from retromae.evaluation.benchmarks import BEIR, beir_average
from retromae.evaluation.significance import Comparison, compare
from retromae.evaluation.tables import Table, plain

_FORMS: dict[Form, str] = {"text": "txt", "markdown": "md", "latex": "tex", "json": "json"}


def tables(report: Report) -> list[Table]:
    """One for the sets with judgements, one for those with answer strings."""
    judged = {outcome.name: outcome.results for outcome in report.sets if outcome.judgements}
    answered = {outcome.name: outcome.results for outcome in report.sets if not outcome.judgements}
    found = [(judged, report.metrics)] if judged else []
    if answered:
        found.append((answered, list(next(iter(answered.values()))[0].metrics)))
    return [Table.of(results, metrics, baseline=report.baseline) for results, metrics in found]


def rendered(report: Report, form: Form) -> str:
    """All tables in one form."""
    if form == "json":
        found = [asdict(table) for table in tables(report)]
        return json.dumps({"tables": found, **_sentence_figures(report)}, indent=2, ensure_ascii=False)
    parts = [table.render(form, intervals=True) for table in tables(report)]
    return "\n\n".join([*parts, *(plain(rows, form) for rows in _sentence_tables(report))])


def _sentence_tables(report: Report) -> Iterator[list[list[str]]]:
    names = list(report.fingerprints)
    for task, results in report.sts.items():
        rows = [["System", f"{task}, Spearman", "95 %", "mean of subsets", "pairs"]]
        for name in names:
            r = results[name]
            rows.append([name, f"{r.all:.3f}", f"[{r.low:.3f}, {r.high:.3f}]", f"{r.mean:.3f}", str(r.pairs)])
        yield rows
    for task, classes in report.transfer.items():
        rows = [["System", f"{task}, accuracy", "95 %", "F1", "examples"]]
        for name in names:
            c = classes[name]
            f1 = "–" if c.f1 is None else f"{c.f1:.3f}"
            rows.append([name, f"{c.accuracy:.3f}", f"[{c.low:.3f}, {c.high:.3f}]", f1, str(c.examples)])
        yield rows
    if report.mteb:
        yield [
            ["mteb, main score", *names],
            *([task, *(f"{scores[name]:.3f}" for name in names)] for task, scores in report.mteb.items()),
        ]


def comparisons(report: Report) -> dict[str, list[Comparison]]:
    """Set name → every system against the baseline, in every metric. Empty where there is one system only."""
    if report.baseline is None:
        return {}
    return {
        outcome.name: [
            pair
            for metric in outcome.results[0].metrics
            for pair in compare(outcome.results, metric, baseline=report.baseline)
        ]
        for outcome in report.sets
    }


def remarks(report: Report) -> list[str]:
    """Differences in the first metric, averages, and what must be known beside the figures."""
    lines = []
    for name, pairs in comparisons(report).items():
        lines += [_difference(name, pair) for pair in pairs if pair.metric == pairs[0].metric]
    lines += _averages(report)
    for outcome in report.sets:
        lines += [outcome.note] if outcome.note else []
        if outcome.unknown:
            lines.append(f"{outcome.name}: {outcome.unknown} judged documents are not in the corpus.")
    return lines


def warnings_of(report: Report) -> list[str]:
    """One sentence for each leak; what could not be checked is said once for each system."""
    found = [leak.sentence(o.name) for o in report.sets for leak in o.leakage if leak.found]
    unchecked: dict[str, list[str]] = {}
    for outcome in report.sets:
        for leak in outcome.leakage:
            if not leak.found and leak.sentence(outcome.name):
                unchecked.setdefault(leak.sentence("the sets"), []).append(outcome.name)
    return found + list(unchecked)


def _difference(name: str, pair: Comparison) -> str:
    return (
        f"{name}, {pair.metric}: {pair.system} − {pair.baseline} = {pair.difference:+.3f} "
        f"[{pair.low:+.3f}, {pair.high:+.3f}], p = {pair.p:.4f}, after Holm {pair.adjusted:.4f}"
    )


def _averages(report: Report) -> list[str]:
    """BEIR's average, where all sets are BEIR's."""
    names = [outcome.name for outcome in report.sets if outcome.judgements]
    if len(names) < 2 or any(name.partition("/")[0] not in BEIR for name in names):
        return []
    lines = []
    for place, system in enumerate(report.systems):
        means = {outcome.name: outcome.results[place][report.metrics[0]] for outcome in report.sets}
        try:
            average = beir_average(means)
        except UserError as error:
            return [f"No average: {error}"]
        lines.append(
            f"{system.name}: {report.metrics[0]} {average.mean:.3f} on average over {len(average.sets)} of "
            f"BEIR's {len(BEIR)} sets"
        )
    return lines


def write(report: Report, folder: Path, settings: dict[str, Any]) -> None:
    """Every file appears whole; those of the same names are replaced."""
    by_name = {system.name: system for system in report.systems}
    for outcome in report.sets:
        for result in outcome.results:
            file = by_name[result.name].file_name
            result.save(folder / "per_query" / outcome.name / f"{file}.json")
            path = folder / "runs" / outcome.name / f"{file}.trec"
            write_trec(path, outcome.runs[result.name], tag=file)
    write_json(
        folder / "comparisons.json",
        {name: [asdict(pair) for pair in pairs] for name, pairs in comparisons(report).items()},
    )
    for form, ending in _FORMS.items():
        write_text(folder / f"table.{ending}", rendered(report, form) + "\n")
    write_json(folder / "results.json", _facts(report, settings))


def _facts(report: Report, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        **facts_about_here(),
        "settings": settings,
        "systems": [
            {**asdict(system), "fingerprint": report.fingerprints.get(system.name)}
            for system in report.systems
        ],
        "baseline": report.baseline,
        "sets": {outcome.name: _set_facts(outcome) for outcome in report.sets},
        **_sentence_figures(report),
    }


def _sentence_figures(report: Report) -> dict[str, Any]:
    return {
        "sts": {task: {n: asdict(r) for n, r in results.items()} for task, results in report.sts.items()},
        "transfer": {
            task: {n: asdict(r) for n, r in results.items()} for task, results in report.transfer.items()
        },
        "mteb": report.mteb,
    }


def _set_facts(outcome: SetOutcome) -> dict[str, Any]:
    return {
        "split": outcome.split,
        "documents": outcome.documents,
        "queries": len(outcome.results[0].queries),
        "judgements": outcome.judgements,
        "judged documents that are not in the corpus": outcome.unknown,
        "note": outcome.note,
        "figures": {
            result.name: {
                "metrics": {name: asdict(metric) for name, metric in result.metrics.items()},
                "queries without results": len(result.missing),
            }
            for result in outcome.results
        },
        "leakage": [asdict(leak) for leak in outcome.leakage],
    }
