"""The page in a real browser, as wide as a phone and as wide as a desk."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# The page lets no script run in it, so the one that measures runs around it.
AROUND = """<!DOCTYPE html><body style="margin:0"><iframe style="border:0;width:{width}px;height:800px"
srcdoc="{page}"></iframe><p id="found"></p><script>
onload = () => {{
  const inside = document.querySelector("iframe").contentDocument
  const width = one => Math.round(one.getBoundingClientRect().width)
  const outside = [...inside.querySelectorAll("main *")].filter(one =>
    !one.closest(".scrolls, pre, svg, .unseen") && one.getBoundingClientRect().right > {width} + 0.5)
  document.querySelector("#found").textContent = JSON.stringify({{
    wide: inside.documentElement.scrollWidth,
    tall: inside.documentElement.scrollHeight,
    outside: outside.map(one => one.outerHTML.slice(0, 80)),
    narrow_pictures: [...inside.querySelectorAll("svg.narrow")].map(width),
    wide_pictures: [...inside.querySelectorAll("svg.wide")].map(width),
    letters: Math.min(...[...inside.querySelectorAll("svg text")].map(one =>
      one.getBoundingClientRect().height).filter(height => height)),
    paper: getComputedStyle(inside.body).backgroundColor,
  }})
}}
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium on this machine")
@pytest.mark.parametrize(("width", "scheme"), [(360, 1), (1000, 0)])
def test_in_a_browser(reported: Path, tmp_path: Path, width: int, scheme: int) -> None:
    page = html.escape((reported / "report.html").read_text(encoding="utf-8"))
    (tmp_path / "around.html").write_text(AROUND.format(width=width, page=page), encoding="utf-8")
    command = [
        *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"),
        *(f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}"),
        *("--window-size=1200,900", "--virtual-time-budget=5000", (tmp_path / "around.html").as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    match = re.search(r'<p id="found">(.+?)</p>', done.stdout, re.S)
    assert match is not None, done.stderr[-2000:]
    found = json.loads(html.unescape(match[1]))
    assert found["wide"] <= width and found["outside"] == [], found
    assert found["tall"] > 2000 and found["letters"] >= 10
    shown, hidden = "narrow_pictures", "wide_pictures"
    if width > 640:
        shown, hidden = hidden, shown
    assert set(found[hidden]) == {0} and min(found[shown]) > 300, found
    assert found["paper"] == ("rgb(255, 255, 255)" if scheme else "rgb(21, 24, 29)")
