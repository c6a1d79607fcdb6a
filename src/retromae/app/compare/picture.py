"""The picture of a comparison: every mean with its interval and its seeds, and the curves while pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retromae.app.compare.results import CLS_USE, PROBE, Figures, Findings
from retromae.app.pictures import GRID, INK, PALE, ROAD, checked, drawing, save

# Told apart by people who do not see red and green alike, too (Okabe and Ito, darkened a little); the rest is dashed.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#6b4c9a", "#7f7f7f")
_STYLES = ("-", "--", ":", "-.")
_COLUMNS = 3  # panels beside each other
_MOST = 12  # panels of figures: a table says more than many small pictures
_CURVES = ((PROBE, "zero-shot probe, nDCG@10"), (CLS_USE, "[CLS] use, nats per token"))


def draw(findings: Findings, paths: Sequence[str | Path]) -> None:
    """Draw once into every path (.svg, .png or .pdf); the same findings give the same bytes."""
    targets = checked(paths)
    shown = findings.figures[-_MOST:]
    curves = [(name, title) for name, title in _CURVES if _has(findings, name)]
    rows_above = -(-len(shown) // _COLUMNS)
    rows = max(1, rows_above + bool(curves))
    arms = [arm.name for arm in findings.arms]
    height = 0.26 * len(arms) + 0.9
    heights = [height] * rows_above + [2.9] * bool(curves)
    with drawing({"figure.dpi": 160}) as pyplot:
        figure = pyplot.figure(figsize=(11, sum(heights or [1.0]) + 0.3), layout="constrained")
        grid = figure.add_gridspec(rows, 2 * _COLUMNS, height_ratios=heights or [1.0])
        for place, figures in enumerate(shown):
            row, column = divmod(place, _COLUMNS)
            axes = figure.add_subplot(grid[row, 2 * column : 2 * column + 2])
            _means(axes, figures, arms, named=column == 0)
        for place, (name, title) in enumerate(curves):
            axes = figure.add_subplot(grid[rows - 1, 3 * place : 3 * place + 3])
            _curves(axes, findings, name, title)
            if place == 0:
                lines, names = axes.get_legend_handles_labels()
                look = {"fontsize": 8, "frameon": False, "labelcolor": PALE}
                figure.legend(
                    lines, names, loc="outside lower center", ncols=min(8, max(1, len(names))), **look
                )
        save(figure, targets)
        pyplot.close(figure)


def _has(findings: Findings, name: str) -> bool:
    return any(
        name in metrics for arm in findings.arms for curve in arm.curves.values() for _, metrics in curve
    )


def _look(place: int) -> tuple[str, str]:
    """Colour and line of the arm at this place."""
    return _COLOURS[place % len(_COLOURS)], _STYLES[place // len(_COLOURS) % len(_STYLES)]


def _means(axes: Any, figures: Figures, arms: Sequence[str], *, named: bool) -> None:
    for place, arm in enumerate(arms):
        if arm not in figures.means:
            continue
        metric, (colour, _) = figures.means[arm], _look(place)
        span = [[metric.mean - metric.low], [metric.high - metric.mean]]
        axes.errorbar(metric.mean, place, xerr=span, fmt="none", ecolor=colour, elinewidth=2, alpha=0.5)
        seeds = list(figures.seeds[arm].values())
        axes.plot(seeds, [place] * len(seeds), "|", color=colour, markersize=9, zorder=3)
        axes.plot(metric.mean, place, "o", color=colour, markersize=5, markeredgecolor="white", zorder=4)
    axes.set_yticks(range(len(arms)), list(arms) if named else [""] * len(arms))
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_title(figures.column.label, loc="left", fontsize=9, color=INK)
    _plain(axes)


def _curves(axes: Any, findings: Findings, name: str, title: str) -> None:
    """One line for each seed, the first carries the name; pre-trainings that arms share are drawn once."""
    drawn: list[list[tuple[int, float]]] = []
    for place, arm in enumerate(findings.arms):
        colour, style = _look(place)
        label: str | None = arm.name
        for curve in arm.curves.values():
            points = [(step, metrics[name]) for step, metrics in curve if name in metrics]
            if points and points not in drawn:
                drawn.append(points)
                axes.plot(*zip(*points), style, color=colour, linewidth=1.3, alpha=0.85, label=label)
                label = None
    if name == CLS_USE:  # noise around nothing should look like nothing
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, -0.005), max(high, 0.1))
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xlabel("steps", fontsize=8, color=PALE)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(color=GRID, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8, labelcolor=PALE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ROAD)
