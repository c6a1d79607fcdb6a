"""Charts to files, and to the page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retromae.app.pictures import drawing, save
from retromae.app.report.charts import CHARTS
from retromae.app.report.data import AdaptRun
from retromae.app.report.inline import inlined
from retromae.app.report.markup import Markup, tag

_STYLE = {"svg.fonttype": "none", "text.parse_math": False, "axes.unicode_minus": True}


@dataclass(frozen=True)
class Plots:
    """The pictures that the run had something for, as SVG: chart → its wide and its narrow form."""

    drawn: dict[str, tuple[str, str]]

    def figure(self, name: str, label: str, *caption: str) -> Markup | None:
        """Both forms, of which the page shows one; `label` is read out in their place."""
        if name not in self.drawn:
            return None
        forms = [
            inlined(svg, f"{name}-{form}-", class_=form, role="img", aria_label=label)
            for form, svg in zip(("wide", "narrow"), self.drawn[name])
        ]
        return tag("figure", *forms, tag("figcaption", *caption) if caption else None, class_="chart")


def draw_plots(run: AdaptRun, folder: Path) -> Plots:
    """Write every chart that has something to show into `folder`, as SVG and PNG; remove those that have not."""
    drawn = {}
    with drawing(_STYLE):
        for name, chart in CHARTS.items():
            targets = [folder / f"{name}{ending}" for ending in (".svg", ".png")]
            wide, narrow = chart(run, False), chart(run, True)
            if wide is None:
                for target in targets:
                    target.unlink(missing_ok=True)
                continue
            save(wide, targets)
            drawn[name] = (targets[0].read_text(encoding="utf-8"), _as_svg(narrow))
    return Plots(drawn)


def _as_svg(figure: Any) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", facecolor="white", metadata={"Date": None})
    return stream.getvalue()
