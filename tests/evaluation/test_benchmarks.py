from __future__ import annotations

import pytest

from retromae.core.errors import UserError
from retromae.evaluation.benchmarks import (
    BEIR,
    CQADUPSTACK,
    beir_average,
    benchmark,
    cqadupstack_average,
    touche_version,
)


def test_conventions() -> None:
    assert (len(BEIR), len(CQADUPSTACK)) == (18, 12)
    assert [name for name in BEIR if benchmark(name).exclude_self] == ["arguana", "quora"]
    assert {benchmark(name).metric for name in BEIR} == {"nDCG@10"}
    assert (benchmark("msmarco").split, benchmark("msmarco").metric) == ("dev", "nDCG@10")
    assert benchmark("msmarco-passage").metric == "RR@10"
    assert (benchmark("my-own-set").split, benchmark("my-own-set").exclude_self) == ("test", False)


def test_versions_of_touche() -> None:
    assert touche_version(382545, 2962) == "v1"
    assert touche_version(382545, 2214) == "v2"
    assert touche_version(303732, 2849) == "v3"
    assert touche_version(382545, 2215) == touche_version(49, 2214) == "unknown"


def test_cqadupstack_counts_as_one_set() -> None:
    parts = {part: place / 10 for place, part in enumerate(CQADUPSTACK)}
    assert cqadupstack_average(parts) == pytest.approx(0.55)
    average = beir_average({f"cqadupstack/{part}": value for part, value in parts.items()} | {"nq": 0.25})
    assert average.mean == pytest.approx(0.4)
    assert average.sets == pytest.approx({"nq": 0.25, "cqadupstack": 0.55})
    assert len(average.absent) == 16


def test_the_whole_average() -> None:
    average = beir_average(dict.fromkeys(BEIR, 0.5))
    assert average.mean == 0.5
    assert average.absent == []


def test_averages_of_something_else_are_refused() -> None:
    with pytest.raises(UserError, match="missing or not one: android"):
        cqadupstack_average(dict.fromkeys(CQADUPSTACK[1:], 0.1))
    with pytest.raises(UserError, match="got msmarco"):
        beir_average({"nq": 0.5, "msmarco": 0.4})
    with pytest.raises(UserError, match="no set"):
        beir_average({})
    with pytest.raises(UserError, match="both whole and in parts"):
        beir_average({"cqadupstack": 0.1} | {f"cqadupstack/{part}": 0.1 for part in CQADUPSTACK})
