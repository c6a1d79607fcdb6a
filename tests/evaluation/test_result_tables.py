from __future__ import annotations

import json
import re

import pytest

from retromae.core.errors import UserError
from retromae.evaluation.metrics import Result
from retromae.evaluation.tables import Table


def result(name: str, value: float, missing: int = 0, queries: int = 40) -> Result:
    values = {f"q{i}": value + (i % 2) / 100 for i in range(queries)}
    other = {f"q{i}": value / 2 for i in range(queries)}
    return Result.of(name, {"nDCG@10": values, "RR@10": other}, list(values)[:missing])


SETS = {
    "facts": [result("BM25", 0.5), result("ours_2", 0.75, missing=3), result("weak", 0.5)],
    "wiki": [result("BM25", 0.5), result("ours_2", 0.25)],
}


def test_text() -> None:
    text = Table.of(SETS, ["nDCG@10"], baseline="BM25").render()
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["System", "facts", "wiki"]
    assert lines[2:5] == [
        ["BM25", "0.505", "*0.505"],
        ["ours_2", "*0.755†", "0.255†"],
        ["weak", "0.505", "–"],
    ]
    assert "† differs from BM25: paired randomisation, Holm-corrected, p ≤ 0.05." in text
    assert "ours_2 has no result for 3 of 40 queries of facts: they count as zero." in text


def test_markdown() -> None:
    text = Table.of(SETS, ["nDCG@10"], baseline="BM25").render("markdown", intervals=True)
    lines = text.splitlines()
    assert lines[:2] == ["| System | facts | wiki |", "|---|---:|---:|"]
    cells = re.fullmatch(
        r"\| ours_2 \| \*\*0\.755\*\*† \[(0\.75\d), (0\.75\d)\] \| 0\.255† \[.*\] \|", lines[3]
    )
    assert cells is not None
    assert cells[1] < "0.755" < cells[2]
    assert lines[4].endswith("| – |")


def test_latex() -> None:
    text = Table.of(SETS, ["nDCG@10"], baseline="BM25").render("latex")
    assert text.startswith("\\begin{tabular}{lrr}\n\\toprule\nSystem & facts & wiki \\\\\n\\midrule\n")
    assert "ours\\_2 & \\textbf{0.755}$^\\dagger$ & 0.255$^\\dagger$ \\\\" in text
    assert text.rstrip().endswith("\\end{tabular}")
    assert "†" not in text
    assert "≤" not in text


def test_json_keeps_intervals_and_p() -> None:
    table = Table.of(SETS, ["nDCG@10", "RR@10"], baseline="BM25")
    read = json.loads(table.render("json"))
    assert read["columns"] == ["facts nDCG@10", "facts RR@10", "wiki nDCG@10", "wiki RR@10"]
    cell = read["cells"]["ours_2"]["facts nDCG@10"]
    assert cell["best"] is True
    assert cell["p"] < 0.01
    assert cell["low"] < cell["mean"] < cell["high"]
    assert read["cells"]["BM25"]["facts nDCG@10"]["p"] is None


def test_without_a_baseline_nothing_is_tested() -> None:
    text = Table.of(SETS, ["nDCG@10"]).render()
    assert "†" not in text
    assert "*0.755" in text


def test_bad_tables_are_refused() -> None:
    with pytest.raises(UserError, match="no result"):
        Table.of({}, ["nDCG@10"])
    with pytest.raises(UserError, match="'bm25' is not among"):
        Table.of(SETS, ["nDCG@10"], baseline="bm25")
    with pytest.raises(UserError, match="'BM25' was not measured by AP"):
        Table.of(SETS, ["AP"])
    with pytest.raises(UserError, match="other queries"):
        Table.of({"x": [result("a", 0.5), result("b", 0.5, queries=9)]}, ["nDCG@10"], baseline="a")
    with pytest.raises(UserError, match="'html'"):
        Table.of(SETS, ["nDCG@10"]).render("html")  # type: ignore[arg-type]
