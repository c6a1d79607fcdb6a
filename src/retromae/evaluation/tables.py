"""Tables of results: systems by sets and metrics, as text, Markdown, LaTeX (booktabs) or JSON.

The best figure of each column stands in bold, and † marks those that differ significantly from the baseline
(`significance.compare`, per set and metric).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

from retromae.core.errors import UserError
from retromae.evaluation.metrics import Result
from retromae.evaluation.significance import compare

Format = Literal["text", "markdown", "latex", "json"]


@dataclass(frozen=True)
class Cell:
    """One figure; `p` is Holm-adjusted, None for the baseline and where there is nothing to compare."""

    mean: float
    low: float
    high: float
    p: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """`cells[system][column]`; a system that was not measured on a set has no cell there."""

    columns: list[str]
    cells: dict[str, dict[str, Cell]]
    baseline: str | None
    level: float
    notes: list[str]

    @classmethod
    def of(
        cls,
        results: Mapping[str, Sequence[Result]],
        metrics: Sequence[str],
        *,
        baseline: str | None = None,
        level: float = 0.05,
    ) -> Table:
        """From set name → the results of each system on it. Without a baseline nothing is tested.

        Systems whose queries differ from the baseline's on the same set are refused.
        """
        columns: list[str] = []
        cells: dict[str, dict[str, Cell]] = {}
        for name, systems in results.items():
            for metric in metrics:
                column = f"{name} {metric}" if len(metrics) > 1 else name
                columns.append(column)
                for system, cell in _column(systems, metric, baseline).items():
                    cells.setdefault(system, {})[column] = cell
        if not cells:
            raise UserError("there is no result to make a table of.")
        if baseline is not None and baseline not in cells:
            raise UserError(f"the baseline {baseline!r} is not among the systems {', '.join(cells)}.")
        return cls(columns, cells, baseline, level, _notes(results, metrics, baseline, level))

    def render(self, form: Format = "text", *, digits: int = 3, intervals: bool = False) -> str:
        """The table in one of four forms; `intervals` adds the 95 % intervals, which JSON always has."""
        if form == "json":
            return json.dumps(asdict(self), indent=2, ensure_ascii=False)
        if form not in _STYLES:
            raise UserError(f"form {form!r} is not known; use text, markdown, latex or json.")
        style = _STYLES[form]

        def show(cell: Cell | None) -> str:
            if cell is None:
                return style.escape("–")
            figure = f"{cell.mean:.{digits}f}"
            dagger = "†" if cell.p is not None and cell.p <= self.level else ""
            span = f" [{cell.low:.{digits}f}, {cell.high:.{digits}f}]" if intervals else ""
            return (style.bold(figure) if cell.best else figure) + style.escape(dagger) + span

        head = [style.escape(entry) for entry in ("System", *self.columns)]
        body = [
            [style.escape(system), *(show(row.get(column)) for column in self.columns)]
            for system, row in self.cells.items()
        ]
        return style.lay_out([head, *body], [style.escape(note) for note in (*style.notes, *self.notes)])


def plain(rows: Sequence[Sequence[str]], form: Format = "text") -> str:
    """A table of cells that are ready, its head first, as text, Markdown or LaTeX."""
    if form not in _STYLES:
        raise UserError(f"form {form!r} is not known; use text, markdown or latex.")
    style = _STYLES[form]
    return style.lay_out([[style.escape(cell) for cell in row] for row in rows], [])


def _column(systems: Sequence[Result], metric: str, baseline: str | None) -> dict[str, Cell]:
    pvalues = {}
    if len(systems) > 1 and baseline in [system.name for system in systems]:
        pvalues = {pair.system: pair.adjusted for pair in compare(systems, metric, baseline=baseline)}
    absent = [system.name for system in systems if metric not in system.metrics]
    if absent:
        raise UserError(f"{absent[0]!r} was not measured by {metric}.")
    top = max((system.metrics[metric].mean for system in systems), default=0.0)
    return {
        system.name: Cell(
            **asdict(system.metrics[metric]),
            p=pvalues.get(system.name),
            best=system.metrics[metric].mean == top,
        )
        for system in systems
    }


def _notes(
    results: Mapping[str, Sequence[Result]], metrics: Sequence[str], baseline: str | None, level: float
) -> list[str]:
    notes = [f"{metrics[0]}."] if len(metrics) == 1 else []
    if baseline is not None:
        notes.append(f"† differs from {baseline}: paired randomisation, Holm-corrected, p ≤ {level:g}.")
    for name, systems in results.items():
        for system in systems:
            if system.missing:
                share = f"{len(system.missing)} of {len(system.queries)} queries of {name}"
                notes.append(f"{system.name} has no result for {share}: they count as zero.")
    return notes


def _text(rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:], *notes])


def _markdown(rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = f"|---|{'---:|' * (len(rows[0]) - 1)}"
    return "\n".join([lines[0], rule, *lines[1:], *(f"\n{note}" for note in notes)])


def _latex(rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    lines = [f"{' & '.join(row)} \\\\" for row in rows]
    width = len(rows[0])
    return "\n".join(
        [
            f"\\begin{{tabular}}{{l{'r' * (width - 1)}}}",
            *("\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"),
            *(f"\\multicolumn{{{width}}}{{l}}{{\\footnotesize {note}}} \\\\" for note in notes),
            "\\end{tabular}",
        ]
    )


class _Style(NamedTuple):
    bold: Callable[[str], str]
    escape: Callable[[str], str]
    lay_out: Callable[[Sequence[Sequence[str]], Sequence[str]], str]
    notes: tuple[str, ...] = ()


_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    | {"†": "$^\\dagger$", "≤": "$\\leq$", "–": "--", "−": "$-$"}
)
_STYLES: dict[str, _Style] = {
    "text": _Style("*{}".format, str, _text, ("* best of its column.",)),
    "markdown": _Style("**{}**".format, lambda entry: entry.replace("|", "\\|"), _markdown),
    "latex": _Style("\\textbf{{{}}}".format, lambda entry: entry.translate(_LATEX), _latex),
}
