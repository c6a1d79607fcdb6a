"""Stages are done once, again when their inputs change, and go on when they were interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retromae.app.adapt.stages import STATE, Stage, Stages
from retromae.core.errors import UserError


class Made:
    """Three stages, each of which leaves a file and says that it was there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.fails = ""

    def stage(
        self, name: str, value: object = 1, after: tuple[str, ...] = (), why: str | None = None
    ) -> Stage:
        def does() -> str | None:
            self.calls.append(name)
            if self.fails == name:
                raise RuntimeError("struck by lightning")
            if why is None:
                (self.folder / name).write_text(str(value))
            return why

        return Stage(name, name, does, {"value": value}, after, (name,))

    def run(self, **values: object) -> list[str]:
        self.calls = []
        stages = Stages(self.folder, 60, lambda text: None)
        stages.do(self.stage("a", values.get("a", 1)))
        stages.do(self.stage("b", values.get("b", 1), ("a",)))
        stages.do(self.stage("c", values.get("c", 1)))
        return self.calls


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    made = Made(tmp_path)
    assert made.run() == ["a", "b", "c"]
    assert made.run() == []
    assert [entry["state"] for entry in json.loads((tmp_path / STATE).read_text())["stages"]] == [
        "finished"
    ] * 3


def test_a_change_reaches_what_builds_on_it_and_nothing_else(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.run()
    assert made.run(a=2) == ["a", "b"] and (tmp_path / "a").read_text() == "2"
    assert made.run(a=2, c=5) == ["c"]
    (tmp_path / "b").unlink()  # somebody removed what a stage left
    assert made.run(a=2, c=5) == ["b"]
    (tmp_path / "a").unlink()
    assert made.run(a=2, c=5) == ["a", "b"]


def test_an_interrupted_stage_finds_what_it_left(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.fails = "b"
    with pytest.raises(RuntimeError):
        made.run()
    (tmp_path / "b").write_text("half")
    made.fails = ""
    assert made.run() == ["b", "c"]
    records = {entry["name"]: entry for entry in json.loads((tmp_path / STATE).read_text())["stages"]}
    assert records["b"]["state"] == "finished" and records["b"]["seconds"] >= 0


def test_an_interrupted_stage_with_other_inputs_starts_anew(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.fails = "a"
    with pytest.raises(RuntimeError):
        made.run()
    (tmp_path / "a").write_text("half")
    made.fails = ""
    left: list[bool] = []
    stages = Stages(tmp_path, 60, lambda text: None)
    stages.do(Stage("a", "a", lambda: left.append((tmp_path / "a").exists()), {"value": 9}, (), ("a",)))
    assert left == [False]


def test_a_stage_can_skip_itself_and_says_why(tmp_path: Path) -> None:
    made, said = Made(tmp_path), []
    for _ in range(2):
        Stages(tmp_path, None, said.append).do(made.stage("a", why="there is nothing to do"))
    assert made.calls == ["a"] and any("nothing to do" in line for line in said)
    assert json.loads((tmp_path / STATE).read_text())["stages"][0]["why"] == "there is nothing to do"


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / STATE).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        Stages(tmp_path, 60, lambda text: None)
