"""The run folder: what a long job leaves behind, what of it is finished, and where to go on.

    config.yaml      the settings as they were resolved
    manifest.json    what went in: data, versions, machine, world size
    metrics.jsonl    one line per logging step and evaluation
    checkpoint-N/    everything needed to go on after step N
    best/, model/    checkpoints in the form that every tool loads

A checkpoint folder appears by renaming, so one that has its final name is whole.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retromae.core.errors import UserError
from retromae.core.files import write_json, write_text

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_PACKAGES = ("retromae", "torch", "transformers", "sentence-transformers", "datasets", "tokenizers", "numpy")


@dataclass(frozen=True)
class Outcome:
    """What a training job ended with."""

    output_dir: Path
    steps: int
    finished: bool  # False: interrupted; `signal` says by what, and --resume goes on
    signal: int | None
    metrics: dict[str, float]  # the last measurement


class RunFolder:
    """Names and rules of one run folder. Opening it changes nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.manifest = self.path / "manifest.json"
        self.metrics = self.path / "metrics.jsonl"
        self.model = self.path / "model"
        self.best = self.path / "best"

    def checkpoint(self, step: int) -> Path:
        return self.path / f"checkpoint-{step}"

    def checkpoints(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        found = [
            (int(match[1]), path)
            for path in self.path.glob("checkpoint-*")
            if (match := _CHECKPOINT.fullmatch(path.name))
        ]
        return [path for _, path in sorted(found)]

    def latest(self) -> Path | None:
        found = self.checkpoints()
        return found[-1] if found else None

    @property
    def used(self) -> bool:
        """Has a run been started here?"""
        return self.config.exists()

    def read_manifest(self) -> dict[str, Any]:
        if not self.manifest.is_file():
            return {}
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"'{self.manifest}' is damaged; choose another output_dir.") from None
        return dict(manifest)

    def update_manifest(self, **facts: Any) -> None:
        write_json(self.manifest, {**self.read_manifest(), **facts})

    def clear_unfinished(self, *, everywhere: bool = False) -> None:
        """Remove what an interrupted write has left, in this folder or in those below it, too."""
        for path in list(self.path.glob("**/.*.tmp" if everywhere else ".*.tmp")):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        for path in self.path.glob(".checkpoint-*"):
            shutil.rmtree(path)

    def keep_last(self, number: int) -> None:
        """Remove all but the newest checkpoints. Each loses its name first, so no half of one is ever found."""
        found = self.checkpoints()
        for path in found[: len(found) - number]:
            doomed = path.with_name(f".{path.name}.old")
            os.replace(path, doomed)
            shutil.rmtree(doomed)

    def truncate_metrics(self, step: int) -> None:
        """Forget what was logged after `step`: the run will log it again."""
        if not self.metrics.is_file():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                continue  # a line cut off by the interruption
        write_text(self.metrics, "".join(kept))

    def log(self, record: dict[str, Any]) -> None:
        with self.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


def _command() -> list[str]:
    """As it is typed: by name, wherever on this machine the program lies."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return [name, *sys.argv[1:]]


def facts_about_here() -> dict[str, Any]:
    """Versions, machine, command and time, for a manifest."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": {"python": platform.python_version(), **versions},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "command": _command(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
