"""The curve of averaged models for people: table, sentences, files and the picture.

results.json          every figure with its interval and test, models, sets, settings, versions, machine
table.txt .md         the points; with several sets on an axis, every set too
curve.png .svg        the picture
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from retromae.app.average import Curve
from retromae.app.curve_picture import draw_curve
from retromae.app.curve_settings import ROLES, TUNED, Role, label
from retromae.core.files import write_json, write_text
from retromae.core.runs import facts_about_here
from retromae.evaluation.metrics import Metric, Result
from retromae.evaluation.significance import Comparison
from retromae.evaluation.tables import Table, plain

_WORDS: dict[Role, str] = {"in_domain": "in-domain", "out_of_domain": "out-of-domain"}


def names_of(curve: Curve) -> tuple[str, str]:
    """What the two models are called: the run's name for its `model` and `best` folders."""
    first, second = (_short(model) for model in curve.models)
    return (first, second) if first != second else curve.models


def _short(model: str) -> str:
    path = Path(model).resolve()
    return path.parent.name if path.name in ("model", "best") else path.name


def rendered(curve: Curve, form: Literal["text", "markdown"] = "text") -> str:
    """The points with intervals and tests; then each set by itself where an axis is a mean."""
    head = ["weight"]
    for role in ROLES:
        head += [_WORDS[role], "minus weight 1", "p"]
    rows = [head]
    tests = {role: {pair.system: pair for pair in curve.comparisons[role]} for role in ROLES}
    for point in curve.points:
        row = [label(point.weight)]
        for role in ROLES:
            row += _cells(getattr(point, role), tests[role].get(label(point.weight)))
        rows.append(row)
    parts = [plain(rows, form), f"{curve.metric}, 95 % intervals, p of paired randomisation after Holm."]
    if len(curve.sets) > len(ROLES):
        every = Table.of(_by_set(curve), [curve.metric], baseline=f"weight {label(TUNED)}")
        parts.append(every.render(form, intervals=True))
    return "\n\n".join(parts)


def _cells(metric: Metric, pair: Comparison | None) -> list[str]:
    figure = f"{metric.mean:.3f} [{metric.low:.3f}, {metric.high:.3f}]"
    if pair is None:
        return [figure, "–", "–"]
    return [figure, f"{pair.difference:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}]", f"{pair.adjusted:.4f}"]


def _by_set(curve: Curve) -> dict[str, list[Result]]:
    """Set, or forum of CQADupStack, → every point's result."""
    found: dict[str, list[Result]] = {}
    for point in curve.points:
        for role in ROLES:
            for name, parts in point.results[role].items():
                for number, part in enumerate(parts, 1):
                    key = name if len(parts) == 1 else f"{name}, part {number}"
                    found.setdefault(key, []).append(part)
    return found


def remarks(curve: Curve) -> list[str]:
    """What the second model gained and lost, which point is best, and what it was chosen on."""
    first, second = names_of(curve)
    lines = [f"Weight 0 is {first}, weight 1 is {second}; every point is tested against weight 1."]
    for role in ROLES:
        for pair in curve.comparisons[role]:
            if pair.system == label(0):
                lines.append(
                    f"From {first} to {second}, {_WORDS[role]}: {-pair.difference:+.3f} "
                    f"[{-pair.high:+.3f}, {-pair.low:+.3f}], p = {pair.adjusted:.4f}."
                )
    lines.append(f"Best by the mean of both axes: weight {label(curve.best.weight)}.")
    lines.append("Measured on " + ", ".join(f"{one.name} {one.split}" for one in curve.sets) + ".")
    return lines


def warnings_of(curve: Curve) -> list[str]:
    """What makes the choice of a weight doubtful."""
    found = [
        f"{one.name} was measured on its test split: a weight that is chosen by this curve has seen that test, and "
        "figures on it are no longer those of an unseen one."
        for one in curve.sets
        if one.split == "test"
    ]
    for facts in curve.facts.values():
        found += facts["warnings"]
    return list(dict.fromkeys(found))


def write(curve: Curve, folder: Path, settings: dict[str, Any]) -> None:
    """Every file appears whole; those of the same names are replaced."""
    write_text(folder / "table.txt", "\n".join([rendered(curve), "", *remarks(curve)]) + "\n")
    paragraphs = [rendered(curve, "markdown"), *remarks(curve)]
    write_text(folder / "table.md", "\n\n".join(paragraphs) + "\n")
    draw_curve(curve, names_of(curve), [folder / "curve.png", folder / "curve.svg"])
    write_json(folder / "results.json", _facts(curve, settings))


def _facts(curve: Curve, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        **facts_about_here(),
        "settings": settings,
        "models": list(curve.models),
        "metric": curve.metric,
        "sets": {
            one.name: {"role": one.role, "folder": one.folder, **curve.facts[one.name]} for one in curve.sets
        },
        "points": [
            {
                "weight": point.weight,
                **{role: asdict(getattr(point, role)) for role in ROLES},
                "sets": {
                    name: _means(parts, curve.metric)
                    for role in ROLES
                    for name, parts in point.results[role].items()
                },
            }
            for point in curve.points
        ],
        "comparisons": {role: [asdict(pair) for pair in curve.comparisons[role]] for role in ROLES},
        "best": {"weight": curve.best.weight, "by": "the mean of both axes"},
    }


def _means(parts: Sequence[Result], metric: str) -> float:
    return sum(part[metric] for part in parts) / len(parts)
