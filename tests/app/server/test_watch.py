"""Curves of runs, read on as they grow."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from app.server.conftest import RECORDS
from app.server.serving import Server, Setup, message, serving
from retromae.app.server.watch import Curve, Watched
from retromae.core.errors import UserError
from retromae.core.files import write_text


def lines(*steps: int) -> str:
    return "".join(json.dumps({"step": step, "loss": 9.5 - step}) + "\n" for step in steps)


def test_only_what_is_new_is_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    curve = Curve("run", path)
    assert curve.after(0, 0)["records"] == []  # not there yet
    path.write_text(lines(1, 2))
    first = curve.after(0, 0)
    assert [record["step"] for record in first["records"]] == [1, 2]
    with path.open("a") as stream:
        stream.write(lines(3) + '{"step": 4, "lo')
    second = curve.after(first["next"], first["version"])
    assert [record["step"] for record in second["records"]] == [3] and second["start"] == 2
    with path.open("a") as stream:
        stream.write('ss": 1}\n')
    third = curve.after(second["next"], second["version"])
    assert [record["step"] for record in third["records"]] == [4]
    assert curve.after(third["next"], third["version"])["records"] == []


def test_a_file_that_was_written_anew_is_told_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(1, 2, 3))
    curve = Curve("run", path)
    first = curve.after(0, 0)
    write_text(path, lines(1, 2, 30, 31))  # as a run that resumes does
    second = curve.after(first["next"], first["version"])
    assert (second["start"], [record["step"] for record in second["records"]]) == (0, [1, 2, 30, 31])
    os.truncate(path, len(lines(1)))
    third = curve.after(second["next"], second["version"])
    assert [record["step"] for record in third["records"]] == [1]


def test_what_cannot_be_drawn_does_not_hurt(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN, "x": 1e999}\nnonsense\n[1]\n{"step": 2, "loss": -Infinity}\n')
    told = Curve("run", path).after(0, 0)
    assert told["records"] == [{"step": 1, "loss": None, "x": None}, {"step": 2, "loss": None}]
    json.dumps(told, allow_nan=False)


def test_stages_appear_as_they_begin(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "stages").mkdir(parents=True)
    plain = tmp_path / "plain"
    plain.mkdir()
    watched = Watched([run, plain])
    assert [curve.name for curve in watched.curves()] == ["run", "plain"]
    for name in ("zeta", "alpha"):
        (run / "stages" / name).mkdir()
        (run / "stages" / name / "metrics.jsonl").write_text(lines(1))
        names = [curve.name for curve in watched.curves()]
    assert names == ["run", "plain", "run: zeta", "run: alpha"]
    with pytest.raises(UserError, match="no run folder"):
        Watched([tmp_path / "nowhere"])


def test_through_the_server(server: Server) -> None:
    assert server.client.get("/runs").json() == {"runs": [{"number": 0, "name": "run: pretraining"}]}
    told = server.client.get("/runs/0/metrics").json()
    assert told["records"] == RECORDS and told["next"] == told["total"] == 4
    later = server.client.get("/runs/0/metrics", params={"after": 3, "version": told["version"]}).json()
    assert later["records"] == RECORDS[3:]
    assert "there is no run 7; 1 are watched" in message(server.client.get("/runs/7/metrics"))
    assert server.client.get("/runs/0/metrics?after=-1").status_code == 400
    assert server.client.get("/runs/zero/metrics").status_code == 400


def test_a_run_that_still_trains_has_curves_alone(setup: Setup) -> None:
    with serving(replace(setup, engine=None)) as server:
        assert server.client.get("/about").json()["systems"] == []
        assert server.client.get("/runs/0/metrics").json()["records"] == RECORDS
        assert server.client.get("/health").status_code == server.client.get("/metrics").status_code == 200
        for answer in (server.post("/search", query="owl"), server.client.get("/judgements")):
            assert answer.status_code == 404 and message(answer)
