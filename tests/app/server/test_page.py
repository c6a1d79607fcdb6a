"""The workbench in a real browser: search, compare, judge, export, watch, by keyboard, on a phone, with bad input."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.server.browser import Browser, chromium
from app.server.conftest import RECORDS
from app.server.serving import Server, Setup, serving
from retromae.app.server.limits import Limits

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium on this machine")
HITS = "document.querySelectorAll('.hit').length"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(started: Browser) -> Iterator[Browser]:
    started.leave()
    started.errors.clear()
    started.requested.clear()
    started.look()
    yield started
    assert [error for error in started.errors if "status of" not in error] == []


def ask(browser: Browser, query: str) -> None:
    """Type a query and press Enter; the results of both columns are there afterwards."""
    browser.evaluate("document.getElementById('status').textContent = ''")
    browser.key("/")
    browser.evaluate("document.getElementById('query').value = ''")
    browser.type(query)
    browser.key("Enter")
    browser.wait("document.getElementById('status').textContent.startsWith('Results')")


def column(browser: Browser, place: int) -> list[str]:
    """The ids of one column's results."""
    ids = browser.evaluate(
        f"[...document.querySelectorAll('#results-{place} .hit')].map((hit) => hit.dataset.id)"
    )
    assert isinstance(ids, list)
    return ids


def focused(browser: Browser) -> str:
    """`column:row` of the result that has the focus."""
    return str(browser.evaluate("(({column, row}) => `${column}:${row}`)(document.activeElement.dataset)"))


def test_two_systems_side_by_side(browser: Browser, server: Server) -> None:
    browser.goto(server.url)
    assert browser.text("#facts") == ["26 passages"]
    assert browser.evaluate("document.getElementById('system-0').value") == "before"
    assert browser.evaluate("document.getElementById('system-1').value") == "fused"
    ask(browser, "owls and a map of the tower")
    systems = server.engine.systems
    before, fused = (
        [hit.passage.id for hit in systems.search("owls and a map of the tower", 10, system=name)]
        for name in ("before", "fused")
    )
    assert column(browser, 0) == before and column(browser, 1) == fused
    moves = browser.evaluate(
        "[...document.querySelectorAll('#results-1 .rank')]"
        ".map((one) => one.querySelector('[aria-hidden]')?.innerText ?? '')"
    )
    for place, (name, move) in enumerate(zip(fused, moves, strict=True)):
        by = before.index(name) - place if name in before else None
        assert move == ("new" if by is None else "" if not by else f"▲ {by}" if by > 0 else f"▼ {-by}")
    assert all(time.endswith(" ms") for time in browser.text(".time"))
    marked = browser.evaluate(
        "[...document.querySelectorAll('[data-id=owls] .text mark')].map((one) => one.textContent)"
    )
    assert marked[:3] == ["owls", "map", "tower"]
    assert any("map" in text for text in browser.text("#results-1 .why b"))
    browser.evaluate("document.getElementById('status').textContent = ''")
    browser.evaluate("document.getElementById('system-0').value = 'bm25'")
    browser.evaluate("document.getElementById('system-0').dispatchEvent(new Event('change'))")
    browser.wait("document.getElementById('status').textContent.includes('BM25')")
    assert column(browser, 0) == [
        hit.passage.id for hit in systems.search("owls and a map of the tower", 10, system="bm25")
    ]
    assert {url for url in browser.requested if not url.startswith((server.url, "about:", "data:"))} == set()


def test_judging_by_keyboard_alone(browser: Browser, server: Server) -> None:
    browser.goto(server.url)
    assert browser.evaluate("document.activeElement.id") == "query"
    ask(browser, "an owl hunts")
    assert focused(browser) == "0:0"
    browser.key("j")
    browser.key("j")
    browser.key("k")
    assert focused(browser) == "0:1"
    browser.key("3")
    browser.key("l")
    assert focused(browser) == "1:1"
    browser.key("ArrowDown")
    browser.key("0")
    left, right = column(browser, 0)[1], column(browser, 1)[2]
    wanted = {left: 3, right: 0}
    end = time.monotonic() + 10
    while server.judgements.grades("an owl hunts") != wanted and time.monotonic() < end:
        time.sleep(0.02)
    assert server.judgements.grades("an owl hunts") == wanted
    browser.wait("document.getElementById('count').textContent === '2'")
    assert browser.evaluate("document.getElementById('status').textContent") == "Graded 0: wrong. Saved."
    pressed = (
        "[...document.querySelectorAll('.grades [aria-pressed=true]')]"
        ".map((one) => one.closest('.hit').dataset.id + one.textContent)"
    )
    assert set(browser.evaluate(pressed)) == {f"{left}3", f"{right}0"}  # in both columns, where both have it
    browser.key("u")
    browser.wait("document.getElementById('count').textContent === '1'")
    assert server.judgements.grades("an owl hunts") == {left: 3}
    browser.goto(server.url + browser.evaluate("location.hash").replace("#", "/#"))  # as a link that was kept
    browser.wait(HITS)
    assert set(browser.evaluate(pressed)) == {f"{left}3"}
    record = json.loads((server.judgements.folder / "judgements.jsonl").read_text().splitlines()[0])
    assert (record["system"], record["rank"]) == ("before", 2)


def test_help_tabs_and_focus(browser: Browser, server: Server) -> None:
    browser.goto(server.url)
    browser.key("Escape")
    browser.key("?", shift=True)
    browser.wait("document.getElementById('help').open")
    browser.key("j")  # means nothing now
    browser.key("Escape")
    browser.wait("!document.getElementById('help').open")
    browser.evaluate("document.getElementById('tab-search').focus()")
    browser.key("ArrowRight")
    assert browser.evaluate("document.activeElement.id") == "tab-judged"
    assert browser.text("#judged-none") != [""]
    browser.key("ArrowLeft")
    browser.key("ArrowLeft")
    assert browser.evaluate("document.activeElement.id") == "tab-live"
    outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    browser.key("/")
    assert browser.evaluate("document.activeElement.id") == "query"
    for _ in range(12):  # every stop of the Tab key is seen and named
        browser.key("Tab")
        named = browser.evaluate(
            "(({innerText, labels, ariaLabel}, body) => body || innerText || labels?.length || ariaLabel)"
            "(document.activeElement, document.activeElement === document.body)"
        )
        assert named


def test_the_export_is_what_was_judged(browser: Browser, server: Server) -> None:
    server.post("/judgements", query="an owl", passage="p14", grade=2)
    browser.goto(server.url)
    browser.evaluate("document.getElementById('tab-judged').click()")
    browser.wait("document.querySelectorAll('#judged-queries tr').length === 1")
    assert str(server.judgements.folder) in browser.text("#folder")[0]
    assert "--pairs" in browser.text("#train")[0]
    browser.evaluate("document.getElementById('export').click()")
    file = browser.downloads / "judgements.zip"
    end = time.monotonic() + 15
    while not file.is_file() and time.monotonic() < end:
        browser.evaluate("1")
        time.sleep(0.05)
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
        assert archive.read("qrels/train.tsv").decode().splitlines()[1].endswith("\tp14\t2")
    file.unlink()
    browser.evaluate("document.querySelector('#judged-queries button').click()")
    browser.wait(HITS)
    assert browser.evaluate("document.getElementById('query').value") == "an owl"


def test_curves_are_live(browser: Browser, setup: Setup, tmp_path: Path) -> None:
    metrics = tmp_path / "training" / "metrics.jsonl"
    metrics.parent.mkdir()
    with serving(replace(setup, watch=[metrics.parent])) as server:
        browser.goto(server.url)
        browser.evaluate("document.getElementById('tab-live').click()")
        browser.wait("!document.getElementById('live-none').hidden")
        metrics.write_text("".join(json.dumps(record) + "\n" for record in RECORDS[:3]))
        browser.wait("document.querySelectorAll('#charts figure').length === 5")
        titles = browser.evaluate(
            "[...document.querySelectorAll('figcaption')].map((one) => one.firstChild.textContent)"
        )
        assert titles == [
            "Loss",
            "What [CLS] carries, nats per token",
            "Retrieval",
            "Tokens a second",
            "Learning rate",
        ]
        assert "loss 12.0" in browser.text(".legend")[0]
        with metrics.open("a") as stream:
            stream.write(
                json.dumps(RECORDS[3]) + "\n" + json.dumps({"step": 30, "loss": 11.5, "seconds": 190}) + "\n"
            )
        browser.wait("document.querySelector('.legend').innerText.includes('loss 11.5')")
        assert browser.text("#live-facts") == ["step 30, after 3 min 10 s"]
        drawn = browser.evaluate(
            "document.querySelectorAll('#charts figure')[0].querySelector('polyline').getAttribute('points')"
        )
        assert len(drawn.split()) == 3 and "NaN" not in drawn
        assert browser.evaluate("document.querySelectorAll('polygon.band').length") == 1
        metrics.write_text(json.dumps({"step": 5, "loss": 20.0, "seconds": 3}) + "\n")  # written anew
        browser.wait("document.querySelector('.legend').innerText.includes('loss 20.0')")
        assert browser.text("#live-facts") == ["step 5, after 3 s"]


def test_a_run_without_an_index(browser: Browser, setup: Setup) -> None:
    with serving(replace(setup, engine=None)) as server:
        browser.goto(server.url)
        browser.wait("document.querySelectorAll('#charts figure').length >= 5")
        assert browser.text(".tabs button") == ["Live"]
        browser.key("/")
        browser.key("ArrowRight")
        assert browser.evaluate("document.getElementById('panel-search').hidden")
        assert browser.evaluate("document.getElementById('message').hidden")


def test_text_stays_text(browser: Browser, server: Server) -> None:
    browser.goto(server.url)
    query = "<img src=x onerror=window.hacked=1> owl & <b>map</b>"
    ask(browser, query)
    assert "evil" in column(browser, 1)
    assert browser.text("#results-1 [data-id=evil] h3") == ["<img src=x onerror='window.hacked=1'>"]
    browser.evaluate("document.querySelector('#results-1 [data-id=evil] .g2').click()")
    browser.wait("document.getElementById('count').textContent === '1'")
    browser.evaluate("document.getElementById('tab-judged').click()")
    browser.wait("document.querySelectorAll('#judged-queries tr').length === 1")
    assert query in browser.text("#judged-queries td")[0]
    assert browser.evaluate("window.hacked") is None
    assert browser.evaluate("document.querySelectorAll('main img, main script, main b b').length") == 0


def test_bad_input_is_told(browser: Browser, setup: Setup) -> None:
    with serving(replace(setup, limits=Limits(max_characters=300))) as server:
        browser.goto(server.url)
        browser.key("Enter")
        browser.wait("!document.getElementById('message').hidden")
        assert browser.text("#message") == ["The query is empty; type a question first."]
        browser.type("a" * 301)
        browser.key("Enter")
        browser.wait("document.getElementById('message').textContent.includes('301 characters')")
        ask(browser, "zebra xylophone")
        assert browser.evaluate("document.getElementById('message').hidden")
        browser.evaluate("document.getElementById('system-0').value = 'bm25'")
        ask(browser, "zebra xylophone")
        assert "Nothing found" in browser.text("#results-0")[0]
        server.judgements.folder.write_text("in the way")
        browser.evaluate("document.querySelector('.hit .g1').click()")
        browser.wait("document.getElementById('message').textContent.includes('cannot be saved')")
        assert browser.evaluate("document.querySelectorAll('[class^=g][aria-pressed=true]').length") == 0
    browser.evaluate("document.getElementById('query').value = 'owl'")
    browser.evaluate("document.querySelector('#ask button').click()")
    browser.wait("document.getElementById('message').textContent.includes('does not answer')")
    browser.errors.clear()  # Chromium's own, about the connection


def test_the_token_is_asked_for_once(browser: Browser, setup: Setup) -> None:
    with serving(replace(setup, token="a-secret")) as server:
        browser.call("Page.navigate", url=server.url)
        browser.wait("document.getElementById('login')?.open")
        browser.type("wrong")
        browser.key("Enter")
        browser.wait("document.getElementById('login').open && !document.getElementById('token').value")
        browser.type("a-secret")
        browser.key("Enter")
        browser.wait("document.documentElement.dataset.ready === 'yes'")
        ask(browser, "an owl")
        browser.goto(server.url)
        assert not browser.evaluate("document.getElementById('login').open")
        assert "a-secret" not in browser.evaluate("location.href + document.cookie")


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone(browser: Browser, server: Server, dark: bool) -> None:
    browser.look(width=360, height=740, dark=dark)
    browser.goto(server.url)
    ask(browser, "an owl hunts by ear")
    shown = "[0, 1].map((n) => document.getElementById(`results-${n}`).offsetParent !== null)"
    assert browser.evaluate(shown) == [False, True]
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    browser.evaluate("document.getElementById('show-0').click()")
    assert browser.evaluate(shown) == [True, False]
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark
    low = browser.evaluate(_CONTRAST)
    assert low == []


# Texts whose contrast with the page is below 4.5 (WCAG AA), as `class: ratio`
_CONTRAST = """(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const texts = '.rank, .why, .hit h3, .text, .time, .grades button[aria-pressed=false], .tabs button';
  return [...document.querySelectorAll(texts)].map((one) => {
    const ink = light(getComputedStyle(one).color);
    return [one.className, (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)];
  }).filter(([, ratio]) => ratio < 4.5).map(([name, ratio]) => `${name}: ${ratio.toFixed(2)}`);
})()"""
