"""Runs that are watched while they train: their metrics.jsonl, read on as it grows."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retromae.core.errors import UserError

_RECORDS = 5000  # of one answer
_METRICS = "metrics.jsonl"


class Curve:
    """One metrics.jsonl. Lines are parsed once; a file that was written anew, by a run that resumed, is read anew."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self._records: list[dict[str, Any]] = []
        self._version = 0
        self._file, self._read = 0, 0  # its inode, and the bytes that were taken
        self._lock = threading.Lock()

    def after(self, line: int, version: int) -> dict[str, Any]:
        """Records from `line` on; all, where `version` is another reading's."""
        with self._lock:
            self._refresh()
            start = line if version == self._version else 0
            records = self._records[start : start + _RECORDS]
            return {
                "version": self._version,
                "start": start,
                "next": start + len(records),
                "total": len(self._records),
                "records": records,
            }

    def _refresh(self) -> None:
        try:
            with self.path.open("rb") as stream:
                facts = self.path.stat()
                if facts.st_ino != self._file or facts.st_size < self._read:
                    self._records, self._file, self._read = [], facts.st_ino, 0
                    self._version += 1
                stream.seek(self._read)
                data = stream.read()
        except OSError:
            return  # not there yet, or being replaced
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for text in whole.splitlines():
            try:
                record = json.loads(text, parse_constant=_finite, parse_float=_finite)
            except ValueError:
                continue
            if isinstance(record, dict):
                self._records.append(record)


class Watched:
    """Run folders, named at the start. A run of `adapt` holds one for each of its stages, as they begin."""

    def __init__(self, folders: Sequence[str | Path]) -> None:
        self._folders = [Path(folder) for folder in folders]
        for folder in self._folders:
            if not folder.is_dir():
                raise UserError(f"there is no run folder {folder} to watch.")
        self._curves: dict[Path, Curve] = {}
        self._lock = threading.Lock()

    def curves(self) -> list[Curve]:
        """In the order in which they were found: a number stands for the same run for as long as the server runs."""
        with self._lock:
            for folder in self._folders:
                stages = sorted(folder.glob(f"stages/*/{_METRICS}"), key=_age)
                for path in stages or [folder / _METRICS]:
                    if path not in self._curves:
                        name = folder.name or str(folder.resolve().name)
                        stage = f": {path.parent.name}" if stages else ""
                        self._curves[path] = Curve(name + stage, path)
            return list(self._curves.values())


def _finite(number: str) -> float | None:
    """NaN and infinity, which JSON does not have, are nothing that could be drawn."""
    value = float(number)
    return value if math.isfinite(value) else None


def _age(path: Path) -> float:
    """Stages run one after the other, so the one that was written last began last."""
    try:
        return path.stat().st_mtime
    except OSError:  # being replaced
        return time.time()
