"""Texts by number: ids, titles and texts in an Arrow file, read by row from the memory map."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retromae.core.errors import UserError

Numbers = npt.NDArray[np.int32]

_PART_ROWS, _PART_CHARACTERS = 1 << 13, 1 << 24


class Passage(NamedTuple):
    id: str
    title: str
    text: str


_SCHEMA = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.large_string())])


def joined(title: str, text: str) -> str:
    """What encoders and BM25 read of a document: the title and the text, a space between them."""
    return f"{title} {text}" if title else text


def _batch(part: Sequence[Passage]) -> pa.RecordBatch:
    return pa.record_batch(
        [[getattr(passage, name) for passage in part] for name in _SCHEMA.names], schema=_SCHEMA
    )


def write_passages(path: Path, parts: Iterable[Sequence[Passage]]) -> None:
    """Write documents part by part; only one part is held."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for part in parts:
            writer.write_batch(_batch(part))


def copy_passages(path: Path, sources: Iterable[Passages]) -> None:
    """Write the documents of several files into one."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for source in sources:
            for batch in source.batches:
                writer.write_batch(batch)


class PassageWriter:
    """Write documents as they come, for several files at once; a few thousand are held."""

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, _SCHEMA)
        self._waiting: list[Passage] = []
        self._characters = 0

    def __enter__(self) -> PassageWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        self._sink.close()

    def extend(self, passages: Iterable[Passage]) -> None:
        for passage in passages:
            self._waiting.append(passage)
            self._characters += len(passage.title) + len(passage.text)
            if len(self._waiting) >= _PART_ROWS or self._characters >= _PART_CHARACTERS:
                self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_batch(_batch(self._waiting))
            self._waiting.clear()
            self._characters = 0


class Passages:
    """Documents by position. Texts stay on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self.batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path} is missing or damaged ({error}); make its folder again.") from None
        self._ends = np.cumsum([batch.num_rows for batch in self.batches], dtype=np.int64)

    def __reduce__(self) -> tuple[type[Passages], tuple[Path]]:
        """Another process maps the file itself; pickled batches would be copies of all texts."""
        return Passages, (self._path,)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, place: int) -> Passage:
        part = int(np.searchsorted(self._ends, place, side="right"))
        batch = self.batches[part]
        row = place - (int(self._ends[part]) - batch.num_rows)
        return Passage(*(batch.column(i)[row].as_py() for i in range(3)))

    def __iter__(self) -> Iterator[Passage]:
        """All of them in order; one part is held at a time."""
        for batch in self.batches:
            yield from map(Passage, *(column.to_pylist() for column in batch.columns))

    @cached_property
    def ids(self) -> list[str]:
        """All ids, in order."""
        return [text for batch in self.batches for text in _strings(batch.column(0))]

    def texts(self, numbers: npt.ArrayLike) -> list[str]:
        """Title and text of some documents, in the order asked for."""
        titles, texts = (_strings(self.column(i, numbers)) for i in (1, 2))
        return [joined(title, text) for title, text in zip(titles, texts, strict=True)]

    def ids_of(self, numbers: npt.ArrayLike) -> list[str]:
        """The ids of some documents, in the order asked for."""
        return _strings(self.column(0, numbers))

    def column(self, column: int, numbers: npt.ArrayLike) -> pa.Array:
        """Column 0, 1 or 2 (id, title, text) of some rows, gathered part by part."""
        wanted = np.asarray(numbers, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"there are {len(self)} documents in {self._path}")
        parts = np.searchsorted(self._ends, wanted, side="right")
        order = np.argsort(parts, kind="stable")
        used, first = np.unique(parts[order], return_index=True)
        pieces = [pa.array([], _SCHEMA.types[column])]
        for part, places in zip(used.tolist(), np.split(order, first[1:])):
            batch = self.batches[part]
            rows = wanted[places] - (self._ends[part] - batch.num_rows)
            pieces.append(batch.column(column).take(pa.array(rows)))
        back = np.empty(len(wanted), dtype=np.int64)
        back[order] = np.arange(len(wanted))
        return pa.concat_arrays(pieces).take(pa.array(back))

    def digest(self) -> bytes:
        """Of every id, title and text in order, however they are cut into parts."""
        columns = [(hashlib.blake2b(), hashlib.blake2b()) for _ in _SCHEMA]
        for batch in self.batches:
            for column, (lengths, characters) in zip(batch.columns, columns, strict=True):
                sizes = pc.binary_length(column).to_numpy().astype(np.int64)
                lengths.update(sizes)
                if sizes.any():
                    characters.update(memoryview(column.buffers()[2])[: sizes.sum()])
        return b"".join(part.digest() for column in columns for part in column)

    @cached_property
    def _table(self) -> IdTable:
        return IdTable(self)

    def numbers_of(self, ids: Sequence[str]) -> Numbers:
        """Where the documents with these ids stand; -1 for an id that is not among them."""
        return self._table.numbers_of(ids)

    def id_used_twice(self) -> str | None:
        """An id that two documents share, if there is one; look before `numbers_of` is believed."""
        return self._table.used_twice()


class IdTable:
    """Ids → positions by sorted 64-bit hashes, 12 bytes a document; each answer is checked against the id."""

    def __init__(self, passages: Passages, key: Callable[[str], int] = hash) -> None:
        self._passages, self._key = passages, key
        keys = [_keys(_strings(batch.column(0)), key) for batch in passages.batches]
        flat = np.concatenate([np.empty(0, dtype=np.int64), *keys])
        order = np.argsort(flat, kind="stable")
        self._keys, self._order = flat[order], order.astype(np.int32)

    def numbers_of(self, ids: Sequence[str]) -> Numbers:
        wanted, names = _keys(ids, self._key), pa.array(ids, pa.string())
        places = np.searchsorted(self._keys, wanted)  # the first with this key
        numbers = np.full(len(ids), -1, dtype=np.int32)
        searching = np.arange(len(ids))
        while True:
            searching = searching[places[searching] < len(self._keys)]
            searching = searching[self._keys[places[searching]] == wanted[searching]]
            if not searching.size:
                return numbers
            found = self._order[places[searching]]
            equal = pc.equal(self._passages.column(0, found), names.take(pa.array(searching)))
            same = equal.to_numpy(zero_copy_only=False)
            numbers[searching[same]] = found[same]
            searching = searching[~same]  # another id with the same key: look at the next place
            places[searching] += 1

    def used_twice(self) -> str | None:
        same = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        suspects = self._order[np.union1d(same, same + 1)]
        seen: set[str] = set()
        for identifier in self._passages.ids_of(np.sort(suspects)):
            if identifier in seen:
                return identifier
            seen.add(identifier)
        return None


def _strings(column: pa.Array) -> list[str]:
    strings: list[str] = column.to_numpy(zero_copy_only=False).tolist()  # several times as fast as to_pylist
    return strings


def _keys(ids: Sequence[str], key: Callable[[str], int]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(key, ids), dtype=np.int64, count=len(ids))
