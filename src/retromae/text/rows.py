"""Token rows on disk, memory-mapped: the form in which text reaches training.

`prepare` writes them, `Rows` reads them; `Rows` also takes any folder that `datasets.save_to_disk` wrote with a
`token_ids` column, whose other columns then count as empty.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retromae.core.errors import UserError
from retromae.text.prepare import PrepareConfig, prepare
from retromae.text.seen import stable_key
from retromae.text.shards import RowsInfo

__all__ = ["PrepareConfig", "Rows", "RowsInfo", "prepare"]

_EDGE = 1 << 16


@dataclass(frozen=True)
class _Shard:
    """One Arrow file: its table, and all of its bytes seen as tokens, so that its rows lie in one array."""

    table: pa.Table
    tokens: npt.NDArray[Any]  # the whole file, memory-mapped, in the type of the tokens
    starts: npt.NDArray[np.int64]  # [rows] where each row begins in `tokens`
    lengths: npt.NDArray[np.int32]  # [rows]


class Rows:
    """Token rows that behave like one long list. Opened by path, never loaded; safe to hand to other processes."""

    def __init__(self, path: Path, shards: list[_Shard], info: RowsInfo | None, fingerprint: str) -> None:
        self.path = path
        self.info = info
        self.fingerprint = fingerprint
        """Changes with the content of the rows."""
        self._shards = shards
        self._ends = np.cumsum(
            [len(shard.lengths) for shard in shards]
        )  # [shards] first row of the next shard
        self._starts = np.concatenate([shard.starts for shard in shards])
        self.lengths: npt.NDArray[np.int32] = np.concatenate([shard.lengths for shard in shards])

    @classmethod
    def open(cls, path: str | Path) -> Rows:
        """Open a folder of rows; an empty, unfinished, damaged or foreign one is refused."""
        path = Path(path)
        info, names = _listed_files(path)
        shards = [_open_shard(path / name) for name in names]
        if not sum(len(shard.lengths) for shard in shards):
            raise UserError(f"{path} holds no rows; prepare it again from sources with text.")
        fingerprint = info.fingerprint if info is not None else _foreign_fingerprint(path, names, shards)
        return cls(path, shards, info, fingerprint)

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows.open, (str(self.path),)

    def __len__(self) -> int:
        return len(self.lengths)

    def take(
        self, indices: npt.NDArray[np.integer[Any]]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(token ids of these rows one behind the other [sum of lengths], their lengths [rows])."""
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"row {indices.min()} or {indices.max()} is outside of 0 to {len(self) - 1}")
        lengths = self.lengths[indices]
        begins = self._starts[indices]
        # One slice per row and one copy of them all: measured twice as fast as an index per token.
        places = zip(
            np.searchsorted(self._ends, indices, side="right").tolist(),
            begins.tolist(),
            (begins + lengths).tolist(),
            strict=True,
        )
        slices = [self._shards[number].tokens[begin:end] for number, begin, end in places]
        if not slices:
            return np.empty(0, dtype=np.int32), lengths
        return np.concatenate(slices, dtype=np.int32, casting="unsafe"), lengths

    @cached_property
    def title_lengths(self) -> npt.NDArray[np.int32]:
        """[rows] how many leading tokens are the title; 0 where there is none."""
        found: npt.NDArray[np.int32] = self._column("title_length", np.zeros(len(self), dtype=np.int32))
        return found

    @cached_property
    def document_keys(self) -> npt.NDArray[np.uint64]:
        """[rows] a number that rows of one document share; the row's own where documents are not known."""
        if self._has("document") and not self._has("document_key"):
            documents = pa.chunked_array(
                [chunk for shard in self._shards for chunk in shard.table.column("document").chunks]
            )
            return _text_keys(documents)
        found: npt.NDArray[np.uint64] = self._column("document_key", np.arange(len(self), dtype=np.uint64))
        return found

    def sentence_starts(self, index: int) -> npt.NDArray[np.int32]:
        """Where sentences begin in this row, in tokens; empty where it is not known."""
        value = self._value("sentence_starts", index)
        return np.array(value if value is not None else [], dtype=np.int32)

    def id(self, index: int) -> str | None:
        """The passage's id, or None where rows have none."""
        value = self._value("id", index)
        return None if value is None else str(value)

    @property
    def tokenizer_path(self) -> Path | None:
        """The tokenizer that the ids belong to, where it was saved beside the rows."""
        folder = self.path / "tokenizer"
        return folder if folder.is_dir() else None

    def _has(self, name: str) -> bool:
        return all(name in shard.table.column_names for shard in self._shards)

    def _column(self, name: str, otherwise: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A column of numbers in the type of `otherwise`, which stands in where there is none."""
        if not self._has(name):
            return otherwise
        columns = [shard.table.column(name).to_numpy() for shard in self._shards]
        return np.concatenate(columns).astype(otherwise.dtype)

    def _value(self, name: str, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} is outside of 0 to {len(self) - 1}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[number]
        if name not in shard.table.column_names:
            return None
        return shard.table.column(name)[int(index - (self._ends[number] - len(shard.lengths)))].as_py()


def _text_keys(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    coded = pc.dictionary_encode(column.cast(pa.string())).combine_chunks()
    keys = np.array([stable_key(text or "") for text in coded.dictionary.to_pylist()], dtype=np.uint64)
    found: npt.NDArray[np.uint64] = keys[coded.indices.to_numpy()]
    return found


def _listed_files(path: Path) -> tuple[RowsInfo | None, list[str]]:
    """What a folder says that it consists of, checked against what is there."""
    if (path / "rows.json").is_file():
        try:
            info = RowsInfo.read(path)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path / 'rows.json'} is damaged ({error}); prepare the rows again.") from error
        for shard in info.shards:
            file = path / shard["file"]
            if not file.is_file() or file.stat().st_size != shard["bytes"]:
                raise UserError(f"{file} is missing or cut short; copy the folder again or prepare it anew.")
        return info, [shard["file"] for shard in info.shards]
    if (path / "unfinished").is_dir():
        raise UserError(
            f"The preparation of {path} was interrupted; give the same prepare command again to end it."
        )
    if not path.is_dir():
        raise UserError(f"There is no folder {path}; make it with: retromae prepare … --out {path}")
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8")).get("splits", [])
        raise UserError(
            f"{path} holds several splits ({', '.join(splits)}); name one, as in {path / 'train'}."
        )
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return None, [file["filename"] for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is neither a folder of rows (retromae prepare) nor one of datasets.save_to_disk."
        ) from error


def _open_shard(path: Path) -> _Shard:
    try:
        buffer = pa.memory_map(str(path)).read_buffer()
        table = pa.ipc.open_stream(buffer).read_all()
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path} is missing or damaged ({error}); copy the folder again or prepare it anew."
        ) from error
    if "token_ids" not in table.column_names:
        there = ", ".join(table.column_names)
        raise UserError(
            f"{path} has no column token_ids (there: {there}); text is turned into rows by prepare."
        )
    column = table.column("token_ids")
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists or not pa.types.is_integer(kind.value_type) or column.null_count:
        raise UserError(f"{path}: token_ids must be lists of whole numbers in every row, not {kind}.")
    return _located(path, table, column, buffer)


def _located(path: Path, table: pa.Table, column: pa.ChunkedArray, buffer: pa.Buffer) -> _Shard:
    """Find each row's tokens inside the file, without copying them."""
    kind = np.dtype(column.type.value_type.to_pandas_dtype())
    tokens = np.frombuffer(buffer, dtype=kind, count=buffer.size // kind.itemsize)
    starts, lengths = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
    for chunk in column.chunks:
        offsets = chunk.offsets.to_numpy().astype(np.int64)
        values = chunk.values
        if len(values):  # Arrow aligns buffers to 8 bytes at least: a whole number of tokens lies before them
            first = values.buffers()[1].address - buffer.address
            if values.null_count or not 0 <= first < buffer.size:
                raise UserError(f"{path}: token_ids must be stored uncompressed and without gaps.")
            offsets += first // kind.itemsize + values.offset
        starts.append(offsets[:-1])
        lengths.append(np.diff(offsets).astype(np.int32))
    return _Shard(table, tokens, np.concatenate(starts), np.concatenate(lengths))


def _foreign_fingerprint(path: Path, names: list[str], shards: list[_Shard]) -> str:
    """Hash of the files' sizes, the rows' lengths and the first and last 64 KiB of each file."""
    digest = hashlib.sha256()
    for name, shard in zip(names, shards, strict=True):
        digest.update(shard.lengths.tobytes())
        digest.update(b"".join(_edges(path / name)))
    return digest.hexdigest()


def _edges(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with open(path, "rb") as stream:
        yield str(size).encode()
        yield stream.read(_EDGE)
        stream.seek(max(0, size - _EDGE))
        yield stream.read(_EDGE)
