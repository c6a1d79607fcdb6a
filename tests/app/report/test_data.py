"""Reading a run folder: everything that can be damaged or missing is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.command_line import CommandLine
from app.report.made_up import change
from retromae.app.report.curves import loss_panels, retrieval_panels
from retromae.app.report.data import read_run
from retromae.core.errors import UserError


def test_a_whole_run(run: Path) -> None:
    found = read_run(run)
    assert found.name == "docs" and found.depth == 100 and found.budget_seconds == 360
    assert [stage.state for stage in found.stages].count("skipped") == 1
    verdict = found.verdict
    assert verdict.winner.weight == 0.6
    assert [system.name for system in verdict.references] == ["base", "bm25"]
    assert verdict.systems[0].metrics["R@100"].low == pytest.approx(0.752)


def test_a_comparison_can_be_turned_round(run: Path) -> None:
    verdict = read_run(run).verdict
    there, back = verdict.comparison("bm25", "base"), verdict.comparison("base", "bm25")
    assert there is not None and back is not None
    assert (there.gain.mean, there.gain.low, there.gain.high) == (0.024, 0.002, 0.046)
    assert (back.gain.mean, back.gain.low, back.gain.high) == (-0.024, -0.046, -0.002)
    assert back.p == there.p and verdict.comparison("retromae", "bm25") is None


def test_what_may_be_missing(run: Path) -> None:
    for name in ("system.json", "manifest.json"):
        (run / name).unlink()
    change(run / "verdict.json", lambda v: v.pop("examples"))
    change(run / "adapt.json", lambda job: job.update(stages=[], budget_seconds=None))
    found = read_run(run)
    assert found.depth is None and found.manifest == {} and found.stages == []
    assert found.verdict.examples is None and found.budget_seconds is None


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda v: v.pop("sentence"), "sentence is not a text"),
        (lambda v: v.update(metric="MAP"), "systems[0].metrics.MAP is not an object"),
        (lambda v: v.update(seed=True), "seed is not a whole number"),
        (lambda v: v.update(returned="gone"), "speaks of 'gone'"),
        (lambda v: v["queries"].update(test="many"), "queries.test is not a whole number"),
        (lambda v: v["systems"][1].update(label=None), "systems[1].label is not a text"),
        (lambda v: v["systems"][2]["metrics"]["nDCG@10"].pop("low"), "systems[2].metrics.nDCG@10.low"),
        (lambda v: v["comparisons"][0].update(p=float("nan")), "comparisons[0].p is not a number"),
        (lambda v: v["comparisons"][0].update(against="x"), "speaks of 'x'"),
        (lambda v: v["examples"]["won"][0].update(terms=[["lamp"]]), "won[0].terms is not a list of words"),
        (lambda v: v["examples"].update(lost={}), "examples.lost is not a list"),
        (lambda v: v["systems"].clear(), "speaks of 'base'"),
    ],
)
def test_a_damaged_verdict(run: Path, edit: Callable[[Any], object], told: str) -> None:
    change(run / "verdict.json", edit)
    with pytest.raises(UserError) as caught:
        read_run(run)
    assert "verdict.json' is damaged: " in str(caught.value) and told in str(caught.value)


@pytest.mark.parametrize("name", ["adapt.json", "verdict.json", "system.json", "manifest.json"])
@pytest.mark.parametrize("content", [b'{"sentence": "cut o', b"[1, 2]", b"\xff\xfe\x00", b""])
def test_files_that_are_no_objects(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}' is damaged"):
        read_run(run)


def test_an_unknown_state(run: Path) -> None:
    change(run / "adapt.json", lambda job: job["stages"][0].update(state="vanished"))
    with pytest.raises(UserError, match=r"stages\[0\] has the unknown state 'vanished'"):
        read_run(run)


def test_folders_that_are_no_runs(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="There is no run folder"):
        read_run(tmp_path / "none")
    with pytest.raises(UserError, match="is no run of `retromae adapt`"):
        read_run(tmp_path)
    (run / "verdict.json").unlink()
    with pytest.raises(UserError, match="has not come to its judging"):
        read_run(run)


def test_lines_that_an_interruption_cut_off(run: Path) -> None:
    path = run / "stages" / "contrastive" / "metrics.jsonl"
    whole = read_run(run)
    with path.open("a", encoding="utf-8") as stream:
        stream.write('7\nnull\n{"step": 80, "loss": NaN}\n{"loss": 1.0}\n{"step": 85, "lo')
    again = read_run(run)
    assert loss_panels(again) == loss_panels(whole)
    assert retrieval_panels(again) == retrieval_panels(whole)


def test_the_curves(run: Path) -> None:
    found = read_run(run)
    pretrain, contrastive = loss_panels(found)
    assert [(line.name, line.held_out) for line in pretrain.lines] == [
        *[("decoder", False), ("encoder", False)],
        *[("decoder", True), ("encoder", True)],
    ]
    assert [line.name for line in contrastive.lines] == ["contrastive", "reconstruction"]
    probe, dev = (panel.lines[0] for panel in retrieval_panels(found))
    assert probe.band is not None and probe.band[0][0] == pytest.approx(0.26)
    assert dev.band is None and dev.steps == [0, 15, 30, 45, 60, 75] and dev.values[0] == 0.597


def test_a_step_that_was_measured_twice(run: Path) -> None:
    with (run / "stages" / "contrastive" / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 15, "eval_nDCG@10": 0.7}\n')
    dev = retrieval_panels(read_run(run))[1].lines[0]
    assert dev.steps == [0, 15, 30, 45, 60, 75] and dev.values[1] == 0.7


def test_the_verb_says_it_in_one_sentence(run: Path, retromae: CommandLine) -> None:
    done = retromae("report", run / "stages")
    assert done.code == 2 and "is no run of `retromae adapt`" in done.err
