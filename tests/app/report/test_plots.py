"""The pictures: files that open, the same bytes for the same run, and the same pictures on the page."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import pytest

from app.command_line import CommandLine
from app.report.made_up import EVIL, change
from app.report.outline import Outline
from retromae.app.report import plots
from retromae.app.report.charts import CHARTS
from retromae.app.report.data import read_run
from retromae.app.report.inline import inlined
from retromae.app.report.page import write_report
from retromae.core.errors import UserError

NAMES = list(CHARTS)


def test_the_files(reported: Path) -> None:
    assert {"systems", "losses", "cls_use", "retrieval", "time"} <= set(NAMES)
    files = sorted(path.name for path in (reported / "plots").iterdir())
    assert files == sorted(f"{name}{ending}" for name in NAMES for ending in (".svg", ".png"))
    for name in NAMES:
        picture = matplotlib.image.imread(reported / "plots" / f"{name}.png")
        assert picture.shape[1] == 1200 and picture.shape[0] > 100 and picture.std() > 0.02
        root = ElementTree.parse(reported / "plots" / f"{name}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert list(root.iter("{http://www.w3.org/2000/svg}text")), "text is text"


def test_the_same_run_gives_the_same_bytes(reported: Path, run: Path, retromae: CommandLine) -> None:
    """From the command line, too."""
    assert retromae.well("report", run).strip() == str(run / "report.html")
    for path in [run / "report.html", *sorted((run / "plots").iterdir())]:
        assert path.read_bytes() == (reported / path.relative_to(run)).read_bytes(), path.name


def test_pictures_on_the_page(reported: Path) -> None:
    written = (reported / "report.html").read_text(encoding="utf-8")
    svgs = re.findall(r"<svg.*?</svg>", written, re.S)
    assert len(svgs) == 2 * len(NAMES)
    for svg in svgs:
        assert not re.search(r"#[0-9a-fA-F]{3,6}\b(?![\w-])", re.sub(r'(href="|url\()#[\w-]+', "", svg))
        assert "var(--ink)" in svg and "var(--sans)" in svg and "DejaVu" not in svg
        assert "<style" not in svg and "<metadata" not in svg and "xmlns" not in svg
        own = set(re.findall(r' id="([^"]+)"', svg))
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)) and all(
            (a or b) in own for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
        )
    wide = [a for a in Outline(written).all("svg") if a["class"] == "wide"]
    assert [float((a["viewbox"] or "").split()[2]) for a in wide] == [540.0] * len(NAMES)  # 7.5 inches


def test_a_picture_that_has_nothing_to_show_any_more(run: Path) -> None:
    (run / "plots").mkdir()
    (run / "plots" / "cls_use.svg").write_text("old")
    change(run / "adapt.json", lambda job: [stage.update(run=None) for stage in job["stages"]])
    text = write_report(run).read_text(encoding="utf-8")
    assert sorted({path.stem for path in (run / "plots").iterdir()}) == ["gains", "systems", "time"]
    assert "plots/ (gains, systems, time)" in text
    assert not list(run.rglob(".*"))  # nothing half-written is left


def test_a_folder_that_cannot_be_written_to(run: Path) -> None:
    (run / "plots").write_text("in the way")
    with pytest.raises(UserError, match="the report cannot be written to"):
        write_report(run)


def test_a_colour_without_a_name_is_noticed() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><path style="fill: #123456"/></svg>'
    with pytest.raises(KeyError):
        inlined(svg, "a-")


@pytest.mark.parametrize("chart", ["systems", "time"])
def test_text_stays_text_in_pictures(run: Path, monkeypatch: pytest.MonkeyPatch, chart: str) -> None:
    monkeypatch.setattr(plots, "CHARTS", {chart: CHARTS[chart]})
    label = EVIL + " $x_1$ {} %s"
    change(run / "verdict.json", lambda v: v["systems"][0].update(label=label))
    change(run / "adapt.json", lambda job: job["stages"][2].update(title=label))
    figure = plots.draw_plots(read_run(run), run / "plots").figure(chart, label)
    found = Outline(figure or "")
    assert found.mistakes == [] and not found.all("script") and not found.all("img")
    assert found.all("svg")[0]["aria-label"] == label
    assert "<script>" in found.text_of("svg") and "$x_1$" in found.text_of("svg")
