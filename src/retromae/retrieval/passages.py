"""The texts beside the vectors: ids, titles and texts in an Arrow file, read by row from the memory map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from retromae.core.errors import UserError
from retromae.text.collections import Document

_SCHEMA = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.large_string())])


def write_passages(path: Path, parts: Iterable[Sequence[Document]]) -> None:
    """Write documents part by part; only one part is held."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for part in parts:
            columns = list(zip(*part)) if part else [[], [], []]
            writer.write_batch(pa.record_batch([list(column) for column in columns], schema=_SCHEMA))


class Passages:
    """Documents by position. Texts stay on disk."""

    def __init__(self, path: Path) -> None:
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [self._reader.get_batch(i) for i in range(self._reader.num_record_batches)]
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path} is missing or damaged ({error}); make its folder again.") from None
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, place: int) -> Document:
        part = int(np.searchsorted(self._ends, place, side="right"))
        batch = self._batches[part]
        row = place - (int(self._ends[part]) - batch.num_rows)
        return Document(*(batch.column(i)[row].as_py() for i in range(3)))

    @cached_property
    def ids(self) -> list[str]:
        """All ids, in order."""
        return [text for batch in self._batches for text in batch.column(0).to_pylist()]

    def part(self, start: int, stop: int) -> list[Document]:
        return [self[place] for place in range(start, min(stop, len(self)))]
