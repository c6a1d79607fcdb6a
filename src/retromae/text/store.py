"""The texts beside the vectors: ids, titles and texts in an Arrow file, read by row from the memory map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from retromae.core.errors import UserError


class Passage(NamedTuple):
    id: str
    title: str
    text: str


_SCHEMA = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.large_string())])


def write_passages(path: Path, parts: Iterable[Sequence[Passage]]) -> None:
    """Write documents part by part; only one part is held."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for part in parts:
            columns = [[getattr(passage, name) for passage in part] for name in _SCHEMA.names]
            writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))


def copy_passages(path: Path, sources: Iterable[Passages]) -> None:
    """Write the documents of several files into one."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for source in sources:
            for batch in source.batches:
                writer.write_batch(batch)


class Passages:
    """Documents by position. Texts stay on disk."""

    def __init__(self, path: Path) -> None:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self.batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path} is missing or damaged ({error}); make its folder again.") from None
        self._ends = np.cumsum([batch.num_rows for batch in self.batches], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, place: int) -> Passage:
        part = int(np.searchsorted(self._ends, place, side="right"))
        batch = self.batches[part]
        row = place - (int(self._ends[part]) - batch.num_rows)
        return Passage(*(batch.column(i)[row].as_py() for i in range(3)))

    @cached_property
    def ids(self) -> list[str]:
        """All ids, in order."""
        return [text for batch in self.batches for text in batch.column(0).to_pylist()]
