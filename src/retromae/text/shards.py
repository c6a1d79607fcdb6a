"""The folder of rows on disk: what is in it, and how it comes to be, one finished shard after the other.

    rows-00000.arrow …    Arrow streams, as `datasets.load_from_disk` expects them
    state.json, dataset_info.json    for `datasets`
    rows.json             settings, counts, shards with their sha256; written last: without it, unfinished
    sources.jsonl         one line for each source file, to notice changes
    tokenizer/            the tokenizer that the ids belong to
    unfinished/           settings, journal and hashes of a preparation under way

The journal has one line per finished shard with everything that is needed to go on after it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from retromae.core.errors import UserError
from retromae.core.files import file_sha256, replacing, write_json, write_text
from retromae.text.encode import SCHEMA, Encoded
from retromae.text.problems import OnError, Problems
from retromae.text.seen import SeenKeys
from retromae.text.sources import Position

HISTOGRAM_STEP = 16


@dataclass
class Tally:
    """Counts up to a position in the sources."""

    documents: int = 0
    passages: int = 0
    duplicates: int = 0
    cut_off: int = 0
    tokens: int = 0
    length_histogram: list[int] = field(default_factory=list)
    """Passages by tokens: entry k counts lengths from k·16 to k·16+15."""

    def add(self, lengths: Any, documents: int, duplicates: int, cut_off: int) -> None:
        self.documents += documents
        self.passages += len(lengths)
        self.duplicates += duplicates
        self.cut_off += cut_off
        self.tokens += int(lengths.sum())
        bins = np.bincount(lengths // HISTOGRAM_STEP, minlength=len(self.length_histogram))
        bins[: len(self.length_histogram)] += np.array(self.length_histogram, dtype=np.int64)
        self.length_histogram = bins.tolist()


@dataclass
class RowsInfo(Tally):
    """The content of rows.json."""

    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)
    """Number of files, bytes, and the sha256 of sources.jsonl."""
    tokenizer_fingerprint: str = ""
    vocab_size: int = 0
    problems: dict[str, Any] = field(default_factory=dict)
    """counts by kind, and examples of each kind in words."""
    shards: list[dict[str, Any]] = field(default_factory=list)
    fingerprint: str = ""
    """Hash of the shards' content."""

    @classmethod
    def read(cls, folder: Path) -> RowsInfo:
        return cls(**json.loads((folder / "rows.json").read_text(encoding="utf-8")))


def shards_fingerprint(shards: list[dict[str, Any]]) -> str:
    return hashlib.sha256("\n".join(shard["sha256"] for shard in shards).encode()).hexdigest()


class RowsWriter:
    """Takes what chunks gave, in order, drops duplicates, and writes shards.

    A shard is closed at the end of the chunk with which it reaches `shard_tokens`, so where shards end depends on
    the sources alone. After a kill, a new writer on the same folder starts at `position`, behind the last shard
    in the journal, in the state that the first one was in there.
    """

    def __init__(self, out: Path, shard_tokens: int, dedupe: bool, on_error: OnError) -> None:
        self.out = out
        self.shard_tokens = shard_tokens
        self.seen = SeenKeys() if dedupe else None
        self.tally = Tally()
        self.problems = Problems(on_error)
        self.position = Position()
        self.shards: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []
        self._keys: list[Any] = []
        self._waiting = 0  # tokens in _batches
        self._resume()

    @property
    def _unfinished(self) -> Path:
        return self.out / "unfinished"

    @property
    def _journal(self) -> Path:
        return self._unfinished / "journal.jsonl"

    def _resume(self) -> None:
        if not self._journal.is_file():
            return
        # A line without its end was being written when the process died; its shard is written again.
        lines = self._journal.read_bytes().split(b"\n")[:-1]
        self._journal.write_bytes(b"".join(line + b"\n" for line in lines))
        for number, line in enumerate(lines):
            entry = json.loads(line)
            self.shards.append(entry["shard"])
            if self.seen is not None:
                self.seen.add(np.load(self._keys_file(number)))
        if lines:
            self.position = Position(**entry["position"])
            self.tally = Tally(**entry["tally"])
            self.problems = Problems.restore(entry["problems"], self.problems.on_error)

    def _keys_file(self, number: int) -> Path:
        return self._unfinished / f"keys-{number:05d}.npy"

    def add(self, encoded: Encoded, position: Position) -> None:
        """Take the rows of the next chunk, which ends at this position."""
        for problem in encoded.problems:
            self.problems.add(problem)
        rows, duplicates = encoded.rows, 0
        if self.seen is not None:
            new = self.seen.add(encoded.keys)
            duplicates = len(new) - int(new.sum())
            self._keys.append(encoded.keys[new])
            rows = rows.filter(pa.array(new)) if duplicates else rows
        lengths = np.diff(rows.column("token_ids").offsets.to_numpy())
        self.tally.add(lengths, encoded.documents, duplicates, encoded.cut_off)
        self.position = position
        if rows.num_rows:
            self._batches.append(rows)
            self._waiting += int(lengths.sum())
        if self._waiting >= self.shard_tokens:
            self._close_shard()

    def _close_shard(self) -> None:
        number = len(self.shards)
        name = f"rows-{number:05d}.arrow"
        table = pa.Table.from_batches(self._batches, SCHEMA).combine_chunks()
        with replacing(self.out / name) as temporary, pa.ipc.new_stream(str(temporary), SCHEMA) as stream:
            stream.write_table(table)
        if self.seen is not None:
            with replacing(self._keys_file(number)) as temporary, open(temporary, "wb") as file:
                np.save(file, np.concatenate(self._keys))
        path = self.out / name
        shard = {
            "file": name,
            "rows": table.num_rows,
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
        self.shards.append(shard)
        entry = {
            "shard": shard,
            "position": asdict(self.position),
            "tally": asdict(self.tally),
            "problems": self.problems.state(),
        }
        with open(self._journal, "a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self._batches, self._keys, self._waiting = [], [], 0

    def finish(
        self, settings: dict[str, Any], sources: dict[str, Any], fingerprint: str, size: int
    ) -> RowsInfo:
        """Write what is left and everything that makes the folder a finished one."""
        if self._batches:
            self._close_shard()
        info = RowsInfo(
            **asdict(self.tally),
            settings=settings,
            sources=sources,
            tokenizer_fingerprint=fingerprint,
            vocab_size=size,
            problems=self.problems.state(),
            shards=self.shards,
            fingerprint=shards_fingerprint(self.shards),
        )
        if not info.passages:
            shutil.rmtree(self.out)
            found = f" What was skipped: {self.problems}" if self.problems.total else ""
            raise UserError(f"The sources hold no text that could be prepared.{found}")
        write_text(
            self.out / "sources.jsonl", (self._unfinished / "sources.jsonl").read_text(encoding="utf-8")
        )
        _describe_for_datasets(self.out, info)
        write_json(self.out / "rows.json", asdict(info))
        shutil.rmtree(self._unfinished)
        return info


def _describe_for_datasets(out: Path, info: RowsInfo) -> None:
    from datasets import DatasetInfo, Features

    DatasetInfo(features=Features.from_arrow_schema(SCHEMA)).write_to_directory(str(out))
    state: dict[str, Any] = {
        "_data_files": [{"filename": shard["file"]} for shard in info.shards],
        "_fingerprint": info.fingerprint[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(out / "state.json", state)


def claim_folder(out: Path, settings: dict[str, Any], sources: str) -> RowsInfo | None:
    """Make `out` ready for a preparation with these settings, new or to be continued.

    Returns the info of the folder if exactly this preparation is finished already. Anything else in the folder
    is refused: other rows, rows of other settings or sources, or files that are not ours.
    """
    unfinished = out / "unfinished"
    if (out / "rows.json").is_file():
        info = RowsInfo.read(out)
        _refuse_changes(out, info.settings, settings, out / "sources.jsonl", sources)
        shutil.rmtree(unfinished, ignore_errors=True)  # killed on its last step
        return info
    if (unfinished / "journal.jsonl").is_file():
        before = json.loads((unfinished / "settings.json").read_text(encoding="utf-8"))
        _refuse_changes(out, before, settings, unfinished / "sources.jsonl", sources)
        for left in out.glob(".*.tmp"):
            left.unlink()
        return None
    if out.is_file() or (out.exists() and any(out.iterdir()) and not unfinished.is_dir()):
        raise UserError(f"{out} exists and holds something else; choose another --out or empty it first.")
    shutil.rmtree(out, ignore_errors=True)  # begun, but no shard was finished
    unfinished.mkdir(parents=True)
    write_text(unfinished / "sources.jsonl", sources)
    write_json(unfinished / "settings.json", settings)
    return None


def _refuse_changes(
    out: Path, before: dict[str, Any], now: dict[str, Any], sources_before: Path, sources: str
) -> None:
    anew = f"to start anew, delete {out} or choose another --out"
    for name in sorted({*before, *now}):
        if (old := before.get(name)) != (new := now.get(name)):
            raise UserError(
                f"{out} was begun with {name} = {old!r}, now it is {new!r}; go on as before, or {anew}."
            )
    if (listed := sources_before.read_text(encoding="utf-8")) != sources:
        changed = set(listed.splitlines()) ^ set(sources.splitlines())
        names = sorted({json.loads(line)["path"] for line in changed})
        raise UserError(f"Source files changed since {out} was begun (among them {names[0]}); {anew}.")
