"""The findings for people and for files: Markdown, LaTeX (booktabs), text, JSON, a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retromae.app.compare.picture import draw
from retromae.app.compare.results import CLS_USE, PROBE, ArmFindings, Figures, Findings
from retromae.app.compare.settings import Comparison
from retromae.app.pictures import ENDINGS
from retromae.core.errors import UserError
from retromae.core.files import write_text
from retromae.core.runs import facts_about_here
from retromae.core.words import duration
from retromae.evaluation.tables import Cell, Format, Table, plain

LEVEL = 0.05
_FORMS: dict[str, Format] = {".md": "markdown", ".tex": "latex", ".txt": "text"}
_ABSENT = "–"
Rows = list[list[str]]


def check_ending(path: str | Path) -> None:
    """Before anything long: whether a report of this name can be written."""
    known = [*_FORMS, ".json", *ENDINGS]
    if Path(path).suffix not in known:
        raise UserError(f"--report: {path} must end in one of {', '.join(known)}.")


def write(findings: Findings, path: str | Path) -> None:
    """One file; a Markdown page has its picture beside it."""
    path = Path(path)
    if path.suffix == ".json":
        write_text(path, json.dumps(as_json(findings), indent=2, ensure_ascii=False) + "\n")
    elif path.suffix in ENDINGS:
        draw(findings, [path])
    elif path.suffix == ".md":
        picture = path.with_suffix(".svg")
        draw(findings, [picture])
        write_text(path, page(findings, picture.name))
    else:
        write_text(path, sheet(findings, _FORMS[path.suffix]))


def write_all(findings: Findings) -> None:
    """What always lies in the folder of a comparison."""
    folder = findings.comparison.folder
    for name in ("report.md", "report.tex", "results.json"):
        write(findings, folder / name)


# -- tables -----------------------------------------------------------------------------------------------------


def main_table(findings: Findings) -> Table:
    """Arms by columns: means over seeds with intervals over queries; † differs from the reference."""
    cells: dict[str, dict[str, Cell]] = {arm.name: {} for arm in findings.arms}
    for figures in findings.figures:
        for arm, metric in figures.means.items():
            pair = figures.pairs.get(arm)
            cells[arm][figures.column.label] = Cell(
                **asdict(metric), p=pair.adjusted if pair else None, best=arm == figures.best
            )
    columns = [figures.column.label for figures in findings.figures]
    reference = findings.comparison.reference
    against = reference or "the best trained arm of its column"
    notes = [
        "Means over seeds; in brackets 95 % bootstrap intervals over queries.",
        f"† differs from {against}: paired randomisation over queries, Holm-corrected over the arms, p ≤ {LEVEL:g}.",
    ]
    shown = {arm: row for arm, row in cells.items() if row}
    return Table(columns, shown, reference, LEVEL, notes)


def seeds_table(findings: Findings) -> Rows:
    """The mean of every seed, and their standard deviation."""

    def cell(figures: Figures, arm: str) -> str:
        if arm not in figures.seeds:
            return _ABSENT
        each = " ".join(f"{value:.3f}" for value in figures.seeds[arm].values())
        deviation = figures.deviation(arm)
        return each if deviation is None else f"{each} (sd {deviation:.3f})"

    head = ["Every seed", *(figures.column.label for figures in findings.figures)]
    return [head, *([arm.name, *(cell(f, arm.name) for f in findings.figures)] for arm in findings.arms)]


def pairs_table(findings: Findings) -> Rows:
    """Every difference behind a †."""
    rows = [["Difference", "on", "value", "95 %", "p", "after Holm"]]
    for figures in findings.figures:
        for pair in figures.pairs.values():
            rows.append(
                [
                    *(f"{pair.system} − {pair.baseline}", figures.column.label, f"{pair.difference:+.3f}"),
                    *(f"[{pair.low:+.3f}, {pair.high:+.3f}]", f"{pair.p:.4f}", f"{pair.adjusted:.4f}"),
                ]
            )
    return rows


def spent_table(findings: Findings) -> Rows:
    """What pre-training really took, and what it left, means over seeds."""
    columns: list[tuple[str, Callable[[ArmFindings], float | None], Callable[[float], str]]] = [
        ("steps", lambda arm: arm.spent("pretrained", "steps"), lambda value: f"{value:,.0f}"),
        ("tokens", lambda arm: arm.spent("pretrained", "tokens"), _large),
        ("FLOPs", lambda arm: arm.spent("pretrained", "flops"), lambda value: f"{value:.2e}"),
        ("time", lambda arm: arm.spent("pretrained", "seconds"), duration),
        ("fine-tuning", lambda arm: arm.spent("finetuned", "seconds"), duration),
        ("probe nDCG@10", lambda arm: arm.last(PROBE), lambda value: f"{value:.3f}"),
        ("[CLS] use", lambda arm: arm.last(CLS_USE), lambda value: f"{value:.3f}"),
    ]
    rows = [["Spent", *(label for label, *_ in columns)]]
    for arm in findings.arms:
        values = [(value(arm), words) for _, value, words in columns]
        rows.append([arm.name, *(_ABSENT if found is None else words(found) for found, words in values)])
    return rows


def published_table(findings: Findings) -> Rows:
    """The papers' figures beside ours."""
    published = findings.comparison.published
    theirs = list(dict.fromkeys(column for figures in published.values() for column in figures))
    ours = [figures.column.label for figures in findings.figures]
    rows = [["Ours and published", *ours, *(f"paper: {column}" for column in theirs)]]
    names = [arm.name for arm in findings.arms]
    for name in [*names, *(name for name in published if name not in names)]:
        own = [f.means[name].mean if name in f.means else None for f in findings.figures]
        figures = [*own, *(published.get(name, {}).get(column) for column in theirs)]
        if any(figure is not None for figure in figures):
            rows.append([name, *(_ABSENT if figure is None else f"{figure:.4g}" for figure in figures)])
    return rows


def arms_table(findings: Findings) -> Rows:
    """What each arm is."""
    rows = [["Arm", "objective", "other than its defaults"]]
    return [*rows, *([arm.name, arm.objective, arm.described or _ABSENT] for arm in findings.arms)]


def _large(value: float) -> str:
    for scale, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.0f}"


def _tables(findings: Findings) -> list[Rows]:
    """Those that have something to say, after the main one."""
    found = [seeds_table(findings), pairs_table(findings), spent_table(findings)]
    if findings.comparison.published:
        found.insert(0, published_table(findings))
    return [rows for rows in [*found, arms_table(findings)] if len(rows) > 1]


# -- files ------------------------------------------------------------------------------------------------------


def sheet(findings: Findings, form: Format) -> str:
    """All tables in one form, and what must be known."""
    parts = [main_table(findings).render(form, intervals=True)] if findings.measured else []
    parts += [plain(rows, form) for rows in _tables(findings)]
    mark = "% " if form == "latex" else ""
    parts += [f"{mark}{line}" for line in [*_facts(findings), *findings.remarks]]
    return "\n\n".join(parts) + "\n"


def page(findings: Findings, picture: str) -> str:
    """The Markdown page."""
    names = ", ".join(arm.name for arm in findings.arms)
    parts = ["# Comparison", f"Compared: {names}.", *_facts(findings)]
    if findings.measured:
        parts += ["## Results", main_table(findings).render("markdown", intervals=True)]
        parts.append(f"![means with intervals, and curves while pre-training]({picture})")
    titles = {
        "Ours and published": "## Beside the published figures",
        "Every seed": "## From seed to seed",
        "Difference": "## Tests",
        "Spent": "## What it took",
        "Arm": "## Arms",
    }
    for rows in _tables(findings):
        parts += [titles[rows[0][0]], plain(rows, "markdown")]
    if findings.remarks:
        parts += ["## To be known", "\n".join(f"- {remark}" for remark in findings.remarks)]
    return "\n\n".join(parts) + "\n"


def _facts(findings: Findings) -> list[str]:
    """The conditions, in sentences."""
    comparison = findings.comparison
    seeds = ", ".join(map(str, comparison.seeds))
    kind = "model from scratch" if comparison.model is None else comparison.model
    common = comparison.common
    start = f"Start: {kind}" + (f", pre-trained for {common.budget} first" if common else "") + "."
    tests = "; ".join(
        f"{name}: {facts['queries']:,} queries of {facts['split']}, {facts['documents']:,} passages"
        for name, facts in findings.facts.items()
    )
    sentences = [f"Pre-training: {comparison.budget} for every arm, seeds {seeds}. {start}"]
    return [*sentences, *([f"Measured on {tests}."] if tests else [])]


def as_json(findings: Findings) -> dict[str, Any]:
    """Every figure, as it was reckoned."""
    comparison = findings.comparison
    return {
        **facts_about_here(),
        "budget": str(comparison.budget),
        "seeds": comparison.seeds,
        "reference": comparison.reference,
        "settings": _settings_json(comparison),
        "tests": findings.facts,
        "arms": {arm.name: _arm_json(arm) for arm in findings.arms},
        "figures": {figures.column.label: _figures_json(figures) for figures in findings.figures},
        "remarks": findings.remarks,
    }


def _settings_json(comparison: Comparison) -> dict[str, Any]:
    """What the arms have in common; arms whose settings are their own have them beside their figures."""
    plain = ("data", "rows", "start", "pretrain", "finetune", "published")
    common, prepared, mined = comparison.common, comparison.prepare, comparison.negatives
    return {
        **{name: getattr(comparison, name) for name in plain},
        "prepare": None if prepared is None else prepared.deciding(),
        "common": None
        if common is None
        else {
            "budget": str(common.budget),
            "rows": common.rows,
            "prepare": None if common.prepare is None else common.prepare.deciding(),
            **common.settings,
        },
        "negatives": None if mined is None else {**vars(mined), "file": comparison.published_negatives},
        "encoder": vars(comparison.encoder),
        "tests": [vars(test) for test in comparison.tests],
    }


def _arm_json(arm: ArmFindings) -> dict[str, Any]:
    return {
        "objective": arm.objective,
        "other than its defaults": arm.described,
        "spent": arm.stages,
        "curves": {
            seed: [{"step": step, **metrics} for step, metrics in curve] for seed, curve in arm.curves.items()
        },
    }


def _figures_json(figures: Figures) -> dict[str, Any]:
    return {
        "sets": figures.column.tests,
        "metric": figures.column.metric,
        "reference": figures.reference,
        "means": {arm: asdict(metric) for arm, metric in figures.means.items()},
        "by seed": figures.seeds,
        "comparisons": [asdict(pair) for pair in figures.pairs.values()],
    }


def summary(findings: Findings) -> Sequence[str]:
    """For the screen: the main table and what must be known."""
    lines = [main_table(findings).render("text", intervals=True)] if findings.measured else []
    return [*lines, *findings.remarks]
