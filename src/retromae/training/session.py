"""What every long job does with its run folder: claim it, refuse other settings, say how it ended."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retromae.core import distributed
from retromae.core.config import read_yaml
from retromae.core.errors import UserError
from retromae.core.runs import Outcome, RunFolder


class Interrupted(Exception):
    """A signal ended a job that is a part of a longer one; it has written what it needs to go on."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def went_through(outcome: Outcome) -> Outcome:
    """Raise where a signal ended it; of a training that is finished nothing is kept to go on from."""
    if not outcome.finished:
        raise Interrupted(outcome.signal or 0)
    distributed.first_decides(lambda: RunFolder(outcome.output_dir).keep_last(0))
    return outcome


def measured_every(steps: int, times: int, cost: float) -> int:
    """Steps between measurements: `times` in a run, or fewer, so that they never take more than half as long as the
    training. `cost` is how much more a measurement reads than a step, without going backward: a third of the work."""
    return max(1, steps // times, math.ceil(2 * cost / 3))


def required(value: str, name: str) -> str:
    if not value:
        raise UserError(f"Please say {name}: give --{name} or write it into the settings file.")
    return value


def prepare_folder(
    run: RunFolder, settings: Mapping[str, Any], free: set[str], *, resume: bool
) -> Path | None:
    """Check that this run may write here; gives the checkpoint to go on from. `free` settings may change."""
    if run.used and not resume:
        raise UserError(
            f"'{run.path}' already holds a run; add --resume to go on with it, or choose another output_dir."
        )
    if run.used:
        _same_settings(run, settings, free)
    elif run.path.exists() and not all(path.match(".*.tmp") for path in run.path.iterdir()):
        raise UserError(f"'{run.path}' is not empty and holds no run of ours; choose another output_dir.")
    return run.latest()


def _same_settings(run: RunFolder, settings: Mapping[str, Any], free: set[str]) -> None:
    before = read_yaml(run.config)
    changed = [name for name in settings if name not in free and before.get(name) != settings[name]]
    if changed:
        differences = "; ".join(f"{name} was {before.get(name)!r}, is {settings[name]!r}" for name in changed)
        raise UserError(
            f"'{run.path}' was started with other settings ({differences}); "
            "resume with the same ones, or choose another output_dir."
        )


def measurements(run: RunFolder) -> list[tuple[int, dict[str, float]]]:
    """(step, metrics) of every evaluation that the run logged, in order."""
    found = []
    for record in _records(run):
        metrics = {n.removeprefix("eval_"): v for n, v in record.items() if n.startswith("eval_")}
        if metrics:
            found.append((int(record["step"]), metrics))
    return found


def last_metrics(run: RunFolder) -> dict[str, float]:
    """The last evaluation that the run logged."""
    found = measurements(run)
    return found[-1][1] if found else {}


def last_logged(run: RunFolder, name: str) -> float:
    """The last value that the run logged under this name, 0 if none."""
    return next((float(record[name]) for record in reversed(list(_records(run))) if name in record), 0.0)


def _records(run: RunFolder) -> Iterator[dict[str, Any]]:
    if run.metrics.is_file():
        yield from map(json.loads, run.metrics.read_text(encoding="utf-8").splitlines())
