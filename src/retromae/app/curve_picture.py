"""The picture of the curve: in-domain to the right, out-of-domain upwards, one labelled point for each average."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retromae.app.average import Curve, Point
from retromae.app.curve_settings import TUNED, Role
from retromae.app.pictures import BLUE, GREY, GRID, INK, PALE, ROAD, checked, drawing, save

Floats = NDArray[np.float64]

_LONGEST_NAME = 28  # characters of a model's name
_MOST_NAMED = 3  # sets that the label of an axis names
# Where a label may stand beside its point: eight directions, at four distances in typographic points.
_DIRECTIONS = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
_DISTANCES = (8.0, 16.0, 28.0, 42.0)


def draw_curve(curve: Curve, names: tuple[str, str], paths: Sequence[str | Path]) -> None:
    """Draw the curve, once into every path (.svg, .png or .pdf); the same curve gives the same bytes.

    `names` are what the two models are called.
    """
    targets = checked(paths)
    with drawing({"figure.dpi": 160}) as pyplot:
        figure = _figure(pyplot, curve, (_shortened(names[0]), _shortened(names[1])))
        save(figure, targets)
        pyplot.close(figure)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else "…" + name[1 - _LONGEST_NAME :]


def _figure(pyplot: Any, curve: Curve, names: tuple[str, str]) -> Any:
    figure, axes = pyplot.subplots(figsize=(7.6, 5.6), layout="constrained")
    axes.plot(*_means(curve).T, color=ROAD, linewidth=2, zorder=2, solid_capstyle="round")
    for point in curve.points:
        _draw_point(axes, point, best=point is curve.best)
    axes.set_title(
        f"Averages of {names[0]} and {names[1]}",
        loc="left",
        fontsize=12,
        color=INK,
        pad=26,
        fontweight="bold",
    )
    axes.text(
        *(
            0,
            1.025,
            f"labels: the share of {names[1]}   ·   bars: 95 % intervals   ·   ring: best by the mean of both",
        ),
        **{"transform": axes.transAxes, "fontsize": 9, "color": PALE, "va": "bottom"},
    )
    axes.set_xlabel(_axis_label(curve, "in_domain"), fontsize=10, color=INK, labelpad=8)
    axes.set_ylabel(_axis_label(curve, "out_of_domain"), fontsize=10, color=INK, labelpad=8)
    axes.grid(color=GRID, linewidth=1, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9, labelcolor=PALE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ROAD)
    axes.margins(0.1)
    _write_labels(figure, axes, curve, names)
    return figure


def _axis_label(curve: Curve, role: Role) -> str:
    sets = [f"{one.name} {one.split}" for one in curve.sets if one.role == role]
    named = ", ".join(sets) if len(sets) <= _MOST_NAMED else f"{len(sets)} sets"
    mean = "mean of " if len(sets) > 1 else ""
    words = {"in_domain": "in-domain", "out_of_domain": "out-of-domain"}[role]
    return f"{words} {curve.metric}\n{mean}{named}"


def _draw_point(axes: Any, point: Point, *, best: bool) -> None:
    colour = _colour(point.weight)
    x, y = point.in_domain, point.out_of_domain
    axes.errorbar(
        *(x.mean, y.mean),
        xerr=[[x.mean - x.low], [x.high - x.mean]],
        yerr=[[y.mean - y.low], [y.high - y.mean]],
        **{"fmt": "none", "ecolor": (*colour, 0.45), "elinewidth": 1.5, "capsize": 3, "zorder": 3},
    )
    if best:
        axes.plot(x.mean, y.mean, "o", markersize=16, markerfacecolor="none", markeredgecolor=INK, zorder=4)
    axes.plot(x.mean, y.mean, "o", markersize=10, color=colour, markeredgecolor="white", zorder=5)


def _colour(weight: float) -> tuple[float, float, float]:
    """From grey, the first model, to blue, the second."""
    from matplotlib.colors import to_rgb

    first, second = np.array(to_rgb(GREY)), np.array(to_rgb(BLUE))
    red, green, blue = (1 - weight) * first + weight * second
    return float(red), float(green), float(blue)


def _write_labels(figure: Any, axes: Any, curve: Curve, names: tuple[str, str]) -> None:
    """Write each label beside its point where it covers the least: of points, the road, bars, other labels.

    A label that has to stand farther off is tied to its point by a thin line.
    """
    figure.canvas.draw()  # the layout is settled from here on
    figure.set_layout_engine("none")
    scale = figure.dpi / 72
    extent = axes.get_window_extent()
    frame = np.array([extent.min, extent.max])
    pixels = axes.transData.transform(_means(curve))  # (points, 2)
    spots, costs = _busy(axes, curve, pixels, scale)
    ends = {0.0: f"0 · {names[0]}", TUNED: f"1 · {names[1]}"}
    for point, pixel in zip(curve.points, pixels):
        dark = tuple(0.65 * part for part in _colour(point.weight))
        written = axes.annotate(
            ends.get(point.weight, f"{round(point.weight, 3):g}"),
            (point.in_domain.mean, point.out_of_domain.mean),
            xytext=(0, 0),
            textcoords="offset points",
            **{
                "fontsize": 10,
                "color": dark,
                "zorder": 7,
                "ha": "left",
                "va": "bottom",
                "annotation_clip": False,
            },
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )
        bounds = written.get_window_extent()
        size = np.array([bounds.width, bounds.height])
        box = _best_box(pixel, size, (spots, costs), frame, scale)
        written.set_position(tuple((box[0] - pixel) / scale))
        near = np.clip(pixel, box[0], box[1])  # of the box, the place nearest to the point
        if np.linalg.norm(near - pixel) > 1.6 * _DISTANCES[0] * scale:
            tie = axes.transData.inverted().transform([pixel, near])
            axes.plot(*tie.T, color=dark, linewidth=0.8, zorder=6, scalex=False, scaley=False)
        filled = _filled(box, scale)
        spots, costs = np.concatenate([spots, filled]), np.concatenate([costs, np.full(len(filled), 4.0)])


def _means(curve: Curve) -> Floats:
    """(points, 2): both means of every point."""
    return np.array([[point.in_domain.mean, point.out_of_domain.mean] for point in curve.points])


def _busy(axes: Any, curve: Curve, pixels: Floats, scale: float) -> tuple[Floats, Floats]:
    """(n, 2) pixels that labels should leave free, and (n,) how much each is to be spared."""
    steps = np.linspace(0, 1, 60)[:, None]
    road = [start + steps * (end - start) for start, end in itertools.pairwise(pixels)]
    side = np.linspace(-7, 7, 9) * scale
    around = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    bars = []
    for point in curve.points:
        x, y = point.in_domain, point.out_of_domain
        for ends in ([(x.low, y.mean), (x.high, y.mean)], [(x.mean, y.low), (x.mean, y.high)]):
            start, end = axes.transData.transform(ends)
            bars.append(start + steps[::2] * (end - start))
    groups = [(4.0, [pixel + around for pixel in pixels]), (2.0, road), (0.5, bars)]
    spots = [np.concatenate(group) for _, group in groups]
    costs = [np.full(len(group), cost) for (cost, _), group in zip(groups, spots)]
    return np.concatenate(spots), np.concatenate(costs)


def _best_box(
    pixel: Floats, size: Floats, taken: tuple[Floats, Floats], frame: Floats, scale: float
) -> Floats:
    """(2, 2) lower left and upper right corner of the box of this size that covers the least."""
    spots, costs = taken
    steps = np.array(_DIRECTIONS, dtype=np.float64)
    away = np.array(_DISTANCES)[:, None, None] * scale * steps  # (distances, directions, 2)
    centres = (pixel + away + steps * size / 2).reshape(-1, 2)
    boxes = np.stack([centres - size / 2, centres + size / 2], axis=1)  # (boxes, 2, 2)
    inside = ((spots >= boxes[:, None, 0]) & (spots <= boxes[:, None, 1])).all(axis=2)  # (boxes, n)
    outside = (boxes[:, 0] < frame[0]).any(axis=1) | (boxes[:, 1] > frame[1]).any(axis=1)
    farther = np.repeat(np.arange(len(_DISTANCES)), len(steps)) * 1.5 + np.arange(len(boxes)) * 1e-3
    chosen: Floats = boxes[np.argmin(inside @ costs + 1000.0 * outside + farther)]
    return chosen


def _filled(box: Floats, scale: float) -> Floats:
    """(n, 2) pixels all over a box and a little around it."""
    low, high = box[0] - 2 * scale, box[1] + 2 * scale
    grid = np.meshgrid(np.linspace(low[0], high[0], 12), np.linspace(low[1], high[1], 6))
    return np.stack(grid, axis=-1).reshape(-1, 2)
