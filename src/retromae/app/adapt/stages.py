"""The stages of a run: what is done, what its inputs were, and what need not be done again.

adapt.json in the run folder says it. A stage is done again when its inputs have changed, or those of a stage that it
builds on; one that was interrupted goes on by its own means (the trainers' checkpoints, vectors shard by shard).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retromae.core.config import fingerprint
from retromae.core.errors import UserError
from retromae.core.files import write_json

STATE = "adapt.json"


@dataclass
class Record:
    """One stage as adapt.json has it."""

    name: str
    title: str
    state: str  # finished, skipped, interrupted
    why: str = ""
    seconds: float = 0.0
    run: str | None = None
    fingerprint: str = ""
    times: int = 0  # finished: what builds on a stage is done again when it was


@dataclass
class Stage:
    """`does` says why it skipped itself, or None; `inputs` are the settings that it depends on."""

    name: str
    title: str
    does: Callable[[], str | None]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()  # paths in the run folder: removed when the inputs have changed
    run: str | None = None


class Stages:
    """Runs stages in order."""

    def __init__(self, folder: Path, budget_seconds: float | None, say: Callable[[str], None]) -> None:
        self.folder, self.budget, self.say = folder, budget_seconds, say
        self.records = {record.name: record for record in read_records(folder)}
        self.done: dict[str, Record] = {}
        self._began: float | None = None  # of the stage that runs

    def do(self, stage: Stage) -> None:
        inputs = self._fingerprint(stage)
        before = self.records.get(stage.name)
        whole = all((self.folder / name).exists() for name in stage.leaves)
        same = before is not None and before.fingerprint == inputs
        if before and same and (before.state == "skipped" or (before.state == "finished" and whole)):
            self.done[stage.name] = before
            self.say(f"[dim]{stage.title}: {before.state} before[/dim]")
            return
        if before and not same:
            self._forget(stage)
        already = before.seconds if before and same else 0.0
        times = before.times if before else 0
        record = Record(stage.name, stage.title, "interrupted", "", already, stage.run, inputs, times)
        self._note(record)
        self.say(f"[bold]{stage.title}[/bold]")
        self._began = time.monotonic() - already
        try:
            why = stage.does()
        finally:
            record.seconds = round(time.monotonic() - self._began, 1)
            self._began = None
            self._note(record)
        record.state, record.why = ("skipped", why) if why else ("finished", "")
        record.times += 1
        if why:
            self.say(f"  {why}")
        self._note(record)
        self.done[stage.name] = record

    def spent(self) -> float:
        """Seconds of all stages so far, with the one that runs."""
        running = time.monotonic() - self._began if self._began is not None else 0.0
        return running + sum(record.seconds for record in self.done.values())

    def _fingerprint(self, stage: Stage) -> str:
        needed = [(self.done[name].fingerprint, self.done[name].times) for name in stage.after]
        return fingerprint([stage.name, dict(stage.inputs), needed])

    def _forget(self, stage: Stage) -> None:
        for name in stage.leaves:
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _note(self, record: Record) -> None:
        self.records[record.name] = record
        write_json(
            self.folder / STATE,
            {"stages": [asdict(entry) for entry in self.records.values()], "budget_seconds": self.budget},
        )


def read_records(folder: Path) -> list[Record]:
    path = folder / STATE
    if not path.is_file():
        return []
    try:
        return [Record(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))["stages"]]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged, or of another version; choose another output_dir.") from None
