"""Markup to text: what stays, what goes, where lines break."""

from __future__ import annotations

import sys
import time

import pytest

from retromae.core.errors import UserError
from retromae.text.formats import html_to_text, markdown_to_text, reader_of, rst_to_text


def test_html_keeps_text_and_title_and_drops_the_rest() -> None:
    page = """<!doctype html><html><head><title>Tides &amp; moons</title><style>p {color: red}</style>
    <script>var hidden = "<p>not text</p>";</script></head><body><nav><a href="/">Home</a><ul><li>Menu</ul></nav>
    <h1>High   water</h1><p>The sea rises
    twice a <b>day</b>.</p><ul><li>First<li>Second</ul>one<br>two<pre>x = 1
  y = 2</pre></body></html>"""
    title, text = html_to_text(page)
    assert title == "Tides & moons"
    assert text == "High water\n\nThe sea rises twice a day.\n\nFirst\n\nSecond\n\none\ntwo\n\nx = 1\ny = 2"


def test_html_that_is_broken_still_gives_its_text() -> None:
    assert html_to_text("<p>one<p>two</i></b> < three & four <i>five")[1] == "one\n\ntwo < three & four five"


def test_markdown() -> None:
    source = """---
layout: page
---
# Baking *bread*

Take [good flour](https://example.org/a_(b)) and ![a jug](jug.png) of `cold water`.

Second heading
--------------

- **first** step
- _second_ step, snake_case_stays

```python
# not a heading
print("[kept](as is)")
```

> quoted <br> line

[ref]: https://example.org
"""
    title, text = markdown_to_text(source)
    assert title == "Baking bread"
    assert text == (
        "Take good flour and a jug of cold water.\n\nSecond heading\n\n- first step\n"
        '- second step, snake_case_stays\n\n# not a heading\nprint("[kept](as is)")\n\nquoted  line'
    )


def test_markdown_title_from_front_matter_wins() -> None:
    assert markdown_to_text('---\ntitle: "Given"\n---\n# Heading\n\nText.') == ("Given", "Heading\n\nText.")


def test_markdown_tables_become_lines_of_their_cells() -> None:
    source = (
        "Before.\n\n| Flour | *Water* |\n|---|:---:|\n| 500 g | [a jug](jug.md) |\n|  | `a \\| b` |\n\n"
        "    | stays | code |?"
    )
    lines = markdown_to_text(source)[1].split("\n")
    assert lines[:4] == ["Before.", "", "Flour, Water", ""]
    assert "500 g, a jug" in lines and "a | b" in lines and "    | stays | code |?" in lines
    assert markdown_to_text("```\n| a | b |\n```")[1] == "| a | b |"
    assert markdown_to_text("either | or")[1] == "either | or"


def test_rst() -> None:
    source = """==========
Sourdough
==========

.. note:: ignored
   :class: quiet

See :ref:`the oven <oven>` and `our site <https://example.org>`_ for ``code``::

    knead()

Second part
-----------

*Slow* and **strong** dough.
"""
    title, text = rst_to_text(source)
    assert title == "Sourdough"
    assert text == (
        "See the oven and our site for code:\n\n    knead()\n\nSecond part\n\nSlow and strong dough."
    )


@pytest.mark.parametrize("mark", ["[", "*a ", "`", "<", "**b", "![", "``c", "- ", "|-", "```\n"])
def test_long_runs_of_unpaired_marks_stay_linear(mark: str) -> None:
    source = mark * 20_000
    began = time.process_time()
    markdown_to_text(source)
    rst_to_text(source)
    html_to_text(source)
    assert time.process_time() - began < 10


def test_trafilatura_is_asked_for_by_name_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trafilatura", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"retromae\[html\]"):
        reader_of(".html", "trafilatura")("<p>text</p>")
