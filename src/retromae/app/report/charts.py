"""The pictures of the report. Each is drawn twice: wide, for files and screens, and narrow, for phones.

Every chart is a function (run, narrow) → figure, or None where the run holds nothing to draw. Colours come from
`palette.py` alone, because the page gives each of them a second value for the dark.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from retromae.app.report.curves import Panel, cls_panels, loss_panels, retrieval_panels
from retromae.app.report.data import BASE_NAME, AdaptRun, Estimate
from retromae.app.report.palette import (
    ACCENT,
    AXIS,
    BASE,
    GREEN,
    GRID,
    INK,
    ORANGE,
    PALE,
    PAPER,
    PURPLE,
)
from retromae.app.report.words import is_clear, score, signed
from retromae.core.words import duration

_DASHED = (0, (3, 3))
_LONGEST = {False: 44, True: 46}  # characters of a name before it is broken: wide, narrow
_LONGEST_TITLE = 46
_LEAST_TOP = 0.05  # nats per token that the axis of [CLS] use shows at least
_LIFT = 7.5  # points from a row of the narrow form to its name
_WEIGHT = {False: "normal", True: "bold"}

Chart = Callable[[AdaptRun, bool], Any]

WIDE, NARROW = 7.5, 3.5  # inches; a screen shows 96 pixels of each
_SMALL, _TEXT = 8.5, 9.5
_SERIES = (ACCENT, ORANGE, GREEN, PURPLE)


@dataclass(frozen=True)
class _Row:
    """One line of a dot-and-interval chart."""

    label: str
    estimate: Estimate
    value: str
    colour: str
    strong: bool = False


@dataclass(frozen=True)
class _Text:
    text: str
    colour: str
    strong: bool = False


def gains(run: AdaptRun, narrow: bool) -> Any:
    """What is returned against the base and against BM25."""
    verdict = run.verdict
    rows = []
    for reference in verdict.references:
        found = verdict.comparison(verdict.returned, reference.name)
        if found is not None:
            colour = PALE if not is_clear(found) else GREEN if found.gain.low > 0 else ORANGE
            against = f"against {reference.label}"
            rows.append(_Row(against, found.gain, signed(found.gain.mean), colour, strong=True))
    return _dots(rows, f"gain in {verdict.metric}", narrow, line=0.0) if rows else None


def systems(run: AdaptRun, narrow: bool) -> Any:
    """Every system that was judged, the returned one marked; the dashed line is the untouched base."""
    verdict = run.verdict
    rows = []
    for system in verdict.systems:
        returned = system.name == verdict.returned
        estimate = system.metrics[verdict.metric]
        rows.append(
            _Row(system.label, estimate, score(estimate.mean), ACCENT if returned else BASE, returned)
        )
    line = next((s.metrics[verdict.metric].mean for s in verdict.systems if s.name == BASE_NAME), None)
    return _dots(rows, verdict.metric, narrow, line=line)


def losses(run: AdaptRun, narrow: bool) -> Any:
    return _curves(loss_panels(run), narrow, named=True)


def cls_use(run: AdaptRun, narrow: bool) -> Any:
    return _curves(cls_panels(run), narrow, zero=True)


def retrieval(run: AdaptRun, narrow: bool) -> Any:
    return _curves(retrieval_panels(run), narrow)


def time(run: AdaptRun, narrow: bool) -> Any:
    """One bar a stage, in the order in which they ran."""
    stages = run.stages
    if not stages:
        return None
    labels, values = [], []
    for stage in stages:
        ran = stage.state != "skipped"
        labels.append(_Text(stage.title, INK if ran else PALE))
        interrupted = ", interrupted" if stage.state == "interrupted" else ""
        values.append(_Text(duration(stage.seconds) + interrupted if ran else "skipped", PALE))
    figure, axes = _rows(labels, values, narrow, below=0.1)
    axes.barh(range(len(stages)), [stage.seconds for stage in stages], 0.22 if narrow else 0.5, color=ACCENT)
    axes.set_xlim(0, max(1.0, *(stage.seconds for stage in stages)))
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    return figure


CHARTS: dict[str, Chart] = {
    "gains": gains,
    "systems": systems,
    "losses": losses,
    "cls_use": cls_use,
    "retrieval": retrieval,
    "time": time,
}


def _figure(narrow: bool, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(NARROW if narrow else WIDE, height), layout="constrained")


def _dots(rows: Sequence[_Row], measure: str, narrow: bool, *, line: float | None) -> Any:
    """Points with intervals, one row each; a dashed line marks what they are read against."""
    labels = [_Text(row.label, INK, row.strong) for row in rows]
    figure, axes = _rows(labels, [_Text(row.value, INK, row.strong) for row in rows], narrow, below=0.5)
    if line is not None:
        axes.axvline(line, color=PALE, linewidth=1, linestyle=_DASHED, zorder=1)
    for place, row in enumerate(rows):
        e = row.estimate
        axes.plot([e.low, e.high], [place, place], color=row.colour, linewidth=2.2, zorder=2)
        look = {"markersize": 8.5 if row.strong else 7, "color": row.colour, "markeredgecolor": PAPER}
        axes.plot([e.mean], [place], "o", zorder=3, **look)
    _plain_axes(axes)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=1)
    axes.set_xlabel(measure, fontsize=_SMALL, color=PALE)
    axes.locator_params(axis="x", nbins=4 if narrow else 7)
    return figure


def _rows(labels: Sequence[_Text], values: Sequence[_Text], narrow: bool, *, below: float) -> tuple[Any, Any]:
    """A figure of rows, `below` inches under them for the axis: names to the left, on a phone over the rows, and
    values to the right."""
    names = ["\n".join(textwrap.wrap(label.text, _LONGEST[narrow])) for label in labels]
    lines = max(name.count("\n") for name in names) + 1
    over = (_LIFT + 1.25 * _TEXT * lines) / 72 if narrow else 0.0  # inches from a row to the top of its name
    height = over + 0.18 if narrow else 0.16 + 0.16 * lines
    figure = _figure(narrow, height * len(labels) + below)
    axes = figure.subplots()
    axes.set_ylim(len(labels) - 1 + (0.16 / height if narrow else 0.6), -over / height if narrow else -0.6)
    axes.set_yticks([])
    for place, (name, label, value) in enumerate(zip(names, labels, values)):
        spot = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "fontsize": _TEXT}
        look = {"color": label.colour, "fontweight": _WEIGHT[label.strong], "zorder": 4, **spot}
        if narrow:  # what lies under the name must not be read into it
            look["bbox"] = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}
            axes.annotate(name, (0, place), (0, _LIFT), ha="left", va="bottom", **look)
        else:
            axes.annotate(name, (0, place), (-10, 0), ha="right", va="center", **look)
        look = {"color": value.colour, "fontweight": _WEIGHT[value.strong], **spot}
        axes.annotate(value.text, (1, place), (8, 0), ha="left", va="center", **look)
    return figure, axes


def _plain_axes(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=_SMALL, labelcolor=PALE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(AXIS)


def _curves(panels: Sequence[Panel], narrow: bool, *, named: bool = False, zero: bool = False) -> Any:
    """One panel a stage: side by side, on a phone one under the other."""
    if not panels:
        return None
    columns = 1 if narrow else min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = _figure(narrow, (2.5 if named else 2.2) * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels):
        _draw_panel(axes, panel, named=named, zero=zero)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.get_layout_engine().set(hspace=0.08, wspace=0.06)
    return figure


def _draw_panel(axes: Any, panel: Panel, *, named: bool, zero: bool) -> None:
    colours: dict[str, str] = {}
    if zero:
        axes.axhline(0, color=PALE, linewidth=1, linestyle=_DASHED, zorder=1)
    for line in panel.lines:
        colour = colours.setdefault(line.name, _SERIES[len(colours) % len(_SERIES)])
        if line.band is not None:
            axes.fill_between(line.steps, *line.band, color=colour, alpha=0.15, linewidth=0)
        look = {"linestyle": (0, (4, 2)), "linewidth": 1.3} if line.held_out else {"linewidth": 1.8}
        dots = line.held_out or len(line.steps) < 12
        axes.plot(
            *(line.steps, line.values),
            **{"color": colour, "marker": "o" if dots else None, "markersize": 3.5, "zorder": 3, **look},
            label=None if line.held_out else line.name,
        )
    if zero:  # what is next to nothing shall look like it
        low, high = axes.get_ylim()
        top = max(high, _LEAST_TOP)
        axes.set_ylim(min(low, -0.05 * top), top)
    _plain_axes(axes)
    axes.grid(color=GRID, linewidth=1)
    axes.locator_params(nbins=5)
    axes.locator_params(axis="x", integer=True)
    title = "\n".join(textwrap.wrap(panel.title, _LONGEST_TITLE))
    axes.set_title(title, loc="left", fontsize=_TEXT, color=INK, pad=20 if named else 8)
    axes.set_xlabel("step", fontsize=_SMALL, color=PALE)
    axes.set_ylabel(panel.measure, fontsize=_SMALL, color=PALE)
    if named:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 0.98),
            **{"ncols": len(colours), "frameon": False, "fontsize": _SMALL, "labelcolor": INK},
            **{"handlelength": 1.2, "columnspacing": 1.2, "handletextpad": 0.5, "borderpad": 0.2},
        )
