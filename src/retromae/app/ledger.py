"""What is done of a piece of work, and what it was done with.

A `Ledger` is a small file beside the work. A stage may enter its inputs before it begins, and enters what came of it
when it is finished; one whose inputs have changed since is not taken for finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from retromae.core.errors import UserError
from retromae.core.files import write_json

State = Literal["to do", "interrupted", "finished", "changed"]


class Ledger:
    """Stages by name, in one JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {}
        try:
            entries = dict(json.loads(self.path.read_text(encoding="utf-8")))
            if not all("inputs" in entry for entry in entries.values()):
                raise TypeError
        except (ValueError, TypeError):
            raise UserError(
                f"{self.path} is damaged, or of another version; choose another output_dir, or remove this one."
            ) from None
        return entries

    def open(self) -> None:
        """An empty file where there is none, to show whose folder this is before anything is entered."""
        if not self.path.is_file():
            write_json(self.path, {})

    def state(self, stage: str, inputs: Mapping[str, Any]) -> State:
        entry = self.read().get(stage)
        if entry is None:
            return "to do"
        if entry["inputs"] != _plain(inputs):
            return "changed"
        return "finished" if "result" in entry else "interrupted"

    def changes(self, stage: str, inputs: Mapping[str, Any]) -> str:
        """What is different now, in words."""
        return changes(self.read()[stage]["inputs"], inputs)

    def forget(self, stages: Iterable[str]) -> None:
        gone = set(stages)
        write_json(self.path, {name: entry for name, entry in self.read().items() if name not in gone})

    def result(self, stage: str) -> dict[str, Any]:
        return dict(self.read()[stage]["result"])

    def begin(self, stage: str, inputs: Mapping[str, Any]) -> None:
        write_json(self.path, {**self.read(), stage: {"inputs": _plain(inputs)}})

    def finish(self, stage: str, inputs: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        write_json(self.path, {**self.read(), stage: {"inputs": _plain(inputs), "result": _plain(result)}})


def changes(before: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """What is different, in words; nothing if nothing is. `before` are inputs as a ledger gives them back."""
    now = _plain(inputs)
    names = [
        name
        for name in {**before, **now}
        if name not in before or name not in now or before[name] != now[name]
    ]

    def told(side: Mapping[str, Any], name: str) -> str:
        return repr(side[name]) if name in side else "not said"

    return "; ".join(f"{name} was {told(before, name)}, is {told(now, name)}" for name in names)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    return dict(json.loads(json.dumps(dict(values), default=str)))
