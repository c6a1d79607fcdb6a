"""The page: what it says, what it leaves out, and that nothing in it can break it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.report.made_up import BASE, EVIL, FUSED, change
from app.report.outline import Outline
from retromae.app.report.charts import CHARTS
from retromae.app.report.data import read_run
from retromae.app.report.highlight import marked, shortened
from retromae.app.report.page import page
from retromae.app.report.palette import DARK, LIGHT
from retromae.app.report.plots import Plots


def outline_of(run: Path) -> Outline:
    """The page without its pictures, which take longer than the rest."""
    return Outline(page(read_run(run), Plots({})))


def text_of(run: Path) -> str:
    return outline_of(run).text_of("main")


def test_the_page_is_well_made(reported: Path) -> None:
    found = Outline((reported / "report.html").read_text(encoding="utf-8"))
    assert found.doctype == "DOCTYPE html" and found.mistakes == []
    assert found.all("html") == [{"lang": "en"}]
    headings = found.headings()
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings)), headings
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(a["aria-labelledby"] in ids for _, a in found.elements if "aria-labelledby" in a)
    assert all(a.get("scope") in ("col", "row") for a in found.all("th")) and found.all("th")
    assert len(found.all("caption")) == len(found.all("table")) == 2
    pictures = found.all("svg")
    assert len(pictures) == 2 * len(CHARTS)
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 20 for a in pictures)


def test_nothing_comes_from_elsewhere(reported: Path) -> None:
    written = (reported / "report.html").read_text(encoding="utf-8")
    found = Outline(written)
    assert "://" not in written and "@import" not in written
    assert not any(found.all(name) for name in ("script", "link", "img", "iframe", "object", "form"))
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    pointers = [a["href"] or "" for _, a in found.elements if "href" in a]
    assert pointers and all(pointer.startswith("#") for pointer in pointers)
    policy = next(a["content"] for a in found.all("meta") if a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")


def test_the_order_of_the_page(run: Path) -> None:
    found = outline_of(run)
    sections = [a.get("aria-labelledby") for a in found.all("section")]
    assert sections == ["verdict", "systems", "examples", "training", "time", "judging", "manifest"]
    assert found.text_of("h1").startswith("On 1,413 questions that no stage had seen")


def test_the_table(run: Path) -> None:
    table = outline_of(run).text_of("table")
    assert f"{FUSED} returned60 % dense, 40 % BM25" in table
    assert "0.475[0.454, 0.496]+0.066[+0.053, +0.079]p < 0.001+0.042[+0.029, +0.055]" in table
    assert "−0.008[−0.021, +0.005]p = 0.211" in table
    assert table.count(" returned") == 2  # here and under the other measures
    assert "0.835[0.818, 0.852]" in table  # R@100 of the fusion


def test_the_examples(run: Path) -> None:
    found = outline_of(run)
    text = found.text_of("ol")
    assert "make a lamp go dark when the room is empty" in text
    assert "Before rank 14" in text and "After rank 1" in text and "Before not in the first 100" in text
    assert "The answer is in first place." in text and "Query and answer share no word." in text
    assert "Shared words: lamp 3.1 · room 2.4" in text
    marks = [text for opened, text in found.texts if "mark" in opened]
    assert {"lamp", "Lamps", "room", "stays"} <= set(marks) and "make" not in marks
    assert "neighbour's cat" not in text  # the answer is shortened
    assert "boats-1 Vessels" in text  # without a title its id names a passage


def test_how_it_was_judged_and_where_the_time_went(run: Path) -> None:
    text = text_of(run)
    assert "6,949 in all, 6,949 searched" in text and "Splitby document: no document" in text
    assert "9,120 to train on, 400 to choose by, 1,413 to judge by" in text
    assert "titles and cut-out sentences" in text and "Seed42" in text
    assert "training a tokenizer was skipped: the base has its own tokenizer" in text
    assert '"python": "3.11.9"' in outline_of(run).text_of("pre")


@pytest.mark.parametrize(
    "place",
    [
        lambda v: v.update(sentence=EVIL),
        lambda v: v["systems"][4].update(label=EVIL),
        lambda v: v["queries"].update(made_from=EVIL),
        lambda v: v["examples"]["won"][0].update(
            query=EVIL, terms=[["script", 1.0], ["<img", 2.0], ["<b>", 0.5]]
        ),
        lambda v: v["examples"]["won"][0]["answer"].update(text=EVIL, title=EVIL),
        lambda v: v["examples"]["lost"][0]["after_first"].update(text=EVIL + "\ud800"),
    ],
)
def test_text_stays_text(run: Path, place: Callable[[Any], object]) -> None:
    before = outline_of(run)
    change(run / "verdict.json", place)
    after = outline_of(run)
    assert after.mistakes == []
    assert not any(after.all(name) for name in ("script", "img")) and len(after.all("style")) == 1
    assert "<script>alert(1)</script>" in after.text_of("main")
    assert [tag for tag, _ in after.elements if tag != "mark"] == [
        t for t, _ in before.elements if t != "mark"
    ]


def test_without_a_curve(run: Path) -> None:
    change(run / "adapt.json", lambda job: [stage.update(run=None) for stage in job["stages"]])
    assert "No stage left a curve" in text_of(run)
    found = read_run(run)
    assert [name for name in CHARTS if CHARTS[name](found, False) is None] == [
        "losses",
        "cls_use",
        "retrieval",
    ]


def test_without_pre_training(run: Path) -> None:
    change(run / "adapt.json", lambda job: job["stages"].pop(2))
    found = read_run(run)
    assert CHARTS["cls_use"](found, False) is None and CHARTS["losses"](found, True) is not None


def test_a_stage_that_was_never_measured(run: Path) -> None:
    (run / "stages" / "contrastive" / "metrics.jsonl").write_text('{"step": 5, "loss": 1.5}\n')
    found = read_run(run)
    assert len(CHARTS["retrieval"](found, False).axes) == 1
    assert len(CHARTS["losses"](found, False).axes) == 2


def test_without_stages_or_manifest(run: Path) -> None:
    change(run / "adapt.json", lambda job: job["stages"].clear())
    (run / "manifest.json").unlink()
    sections = [a.get("aria-labelledby") for a in outline_of(run).all("section")]
    assert "time" not in sections and "manifest" not in sections
    assert CHARTS["time"](read_run(run), False) is None


def test_bm25_wins(run: Path) -> None:
    (run / "model").rmdir()
    change(
        run / "verdict.json", lambda v: v.update(returned="bm25", sentence="BM25 is best: it is returned.")
    )
    found = outline_of(run)
    assert found.text_of("h1") == "BM25 is best: it is returned."
    facts = found.text_of("dl")
    assert "ReturnedBM25words alone, no model" in facts and "model/" not in facts and "index/" in facts
    (labels,) = [_labels(CHARTS["gains"](read_run(run), False))]
    assert f"against {BASE}" in labels and "+0.024" in labels and "against BM25" not in labels


def test_queries_that_the_user_brought(run: Path) -> None:
    change(run / "verdict.json", lambda v: v["queries"].update(made_from="your pairs"))
    assert "Splitby query: none is in two" in text_of(run)


def test_the_report_does_not_tell_of_itself(run: Path) -> None:
    """It is written while its stage still stands there as interrupted."""
    stage = {"name": "report", "title": "the report", "state": "interrupted", "seconds": 0.0, "run": None}
    change(run / "adapt.json", lambda job: job["stages"].append(stage))
    assert len(read_run(run).stages) == 6 and "interrupted" not in text_of(run)


def test_nothing_was_found(run: Path) -> None:
    nothing = {"id": "", "title": "", "text": ""}
    change(run / "verdict.json", lambda v: v["examples"]["won"][1].update(before_first=nothing))
    assert "Before not in the first 100Nothing was found at all." in text_of(run)


def test_the_base_wins_against_bm25(run: Path) -> None:
    """Nothing has changed, so the sides are called by their names."""

    def edit(v: Any) -> None:
        v.update(returned="base")
        v["examples"].update(against="bm25")

    change(run / "verdict.json", edit)
    text = text_of(run)
    assert "BM25 rank 14" in text and f"{BASE} rank 1" in text
    assert "Before" not in text and "After" not in text


def test_the_base_wins(run: Path) -> None:
    """Against BM25 the comparison that was written down is told the other way round."""
    change(run / "verdict.json", lambda v: v.update(returned="base"))
    found = outline_of(run)
    assert "examples" not in [a.get("aria-labelledby") for a in found.all("section")]
    assert _labels(CHARTS["gains"](read_run(run), True)) == ["against BM25", "−0.024"]


def test_one_system_only(run: Path) -> None:
    def alone(v: Any) -> None:
        v.update(systems=v["systems"][:1], comparisons=[], returned="base")
        v.pop("examples")

    change(run / "verdict.json", alone)
    found = outline_of(run)
    assert "The only system" in found.text_of("h2") and found.mistakes == []
    assert CHARTS["gains"](read_run(run), False) is None


@pytest.mark.parametrize("kept", [(), ("won",), ("lost",)])
def test_few_examples(run: Path, kept: tuple[str, ...]) -> None:
    emptied = {name: [] for name in ("won", "lost") if name not in kept}
    change(run / "verdict.json", lambda v: v["examples"].update(emptied))
    text = text_of(run)
    assert ("No query was answered better or worse than before." in text) is (not kept)
    assert ("No query that was won is on record." in text) is (kept == ("lost",))


def test_a_rank_without_a_depth(run: Path) -> None:
    (run / "system.json").unlink()
    assert "Before not found" in text_of(run)


def test_colours_can_be_read() -> None:
    """Contrast as WCAG measures it, of every colour that letters have, in the light and in the dark."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for colours in (LIGHT, DARK):
        for name in ("ink", "pale", "accent", "orange", "green"):
            light, dark = sorted((luminance(colours[name]), luminance(colours["paper"])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, colours[name])
    assert LIGHT.keys() == DARK.keys() and len(set(LIGHT.values())) == len(LIGHT)


@given(st.text(st.characters(codec="utf-8")), st.lists(st.text(max_size=8), max_size=4))
def test_marking_changes_no_text(text: str, terms: list[str]) -> None:
    found = Outline(f"<p>{marked(text, terms)}</p>")
    assert found.mistakes == []
    assert "".join(piece for _, piece in found.texts) == text


def test_what_is_marked() -> None:
    assert marked("Threads, thread; threadbare: art and cart", ["thread", "art"]) == (
        "<mark>Threads</mark>, <mark>thread</mark>; threadbare: <mark>art</mark> and cart"
    )
    assert marked("a+b < c", ["a+b", " ", ""]) == "<mark>a+b</mark> &lt; c"


def test_shortening() -> None:
    text = " ".join(f"word{n}" for n in range(100)) + " needle " + "tail " * 50
    short = shortened(text, ["needle"], 120)
    assert short.startswith("… ") and "needle" in short and short.endswith(" …") and len(short) < 130
    assert shortened(text, [], 120).startswith("word0 word1")
    assert shortened("two\n  lines", [], 120) == "two lines"
    assert len(shortened("x" * 1000, [], 120)) < 125
    assert re.fullmatch(r"x{120} …", shortened("x" * 1000, [], 120))


def _labels(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]
