"""Training pairs: queries, the passages that answer them, and what else the data says, all by number.

Queries and passages lie in Arrow files and are read from the memory map, row by row; what training holds is lists
of numbers. The store is made once from whatever layout the data has (`pair_formats`) and opened at once
afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from retromae.core.distributed import first_decides, writes
from retromae.core.errors import UserError
from retromae.core.files import cache_folder
from retromae.text.collections import OnError
from retromae.text.pair_formats import Source, find
from retromae.text.pair_store import FORMAT, MANIFEST, PASSAGES, QUERIES, Side, build
from retromae.text.store import Passages


@dataclass(frozen=True, eq=False)
class Lists:
    """A list of numbers for each row, held in two flat arrays."""

    starts: NDArray[np.int64]  # (rows + 1,)
    members: NDArray[np.int32]  # (m,) row i has members[starts[i] : starts[i + 1]]

    def __post_init__(self) -> None:
        starts = self.starts
        if (
            not len(starts)
            or starts[0] != 0
            or starts[-1] != len(self.members)
            or (np.diff(starts) < 0).any()
        ):
            raise ValueError("the starts of lists must go up from 0 to the number of members")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} lists")
        return self.members[self.starts[row] : self.starts[row + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many members each row has."""
        return np.diff(self.starts)

    @property
    def owners(self) -> NDArray[np.int32]:
        """The row of each member."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.lengths)

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int] | NDArray[np.int32]]) -> Lists:
        rows = [np.asarray(row, dtype=np.int32) for row in lists]
        starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        return cls(starts, np.concatenate([np.empty(0, dtype=np.int32), *rows]))

    @classmethod
    def empty(cls, rows: int) -> Lists:
        """So many rows without a member."""
        return cls(np.zeros(rows + 1, dtype=np.int64), np.empty(0, dtype=np.int32))


@dataclass(frozen=True, eq=False)
class Pairs:
    """One split of a data set for training. `len(pairs)` is the number of queries.

    `passages` is the whole corpus where the data has one (`has_corpus`), and otherwise every distinct passage
    that the examples name. There, equal texts are one passage, with the first of their ids: two queries share
    an answer if and only if they share its number. A text without an id has a digest of its content for one,
    the same wherever it occurs; equal queries without ids are one query with the answers of all.
    """

    name: str
    split: str
    source: str
    queries: Passages
    """Only those of this split; they have no title."""
    passages: Passages
    positives: Lists
    """Row i: the passages that answer query i, at least one."""
    negatives: Lists | None
    """Row i: passages that the data gives as wrong for query i, perhaps none; never one of its positives."""
    positive_scores: NDArray[np.float32] | None
    """Teacher scores that came with the data, aligned with `positives.members`; NaN where one has none."""
    negative_scores: NDArray[np.float32] | None
    fingerprint: str
    """The same for the same ids, texts, lists and scores, wherever they came from."""
    has_corpus: bool
    notes: tuple[str, ...] = field(default=())
    """What of the data was left out or not read, in sentences."""

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def open(
        cls,
        source: str | Path,
        split: str = "train",
        *,
        cache: str | Path | None = None,
        on_error: OnError = "raise",
    ) -> Pairs:
        """Open one of the sources that `pair_formats` lists.

        The store is kept in `cache` (by default `pairs` below $RETROMAE_CACHE or ~/.cache/retromae) and made
        again when the files change; all processes of a group may call this at once. `on_error` governs, as in
        `Collection.open`, what can be lived with: judgements of passages that are not in the corpus, queries
        without text, queries without a positive. "raise" refuses them, "warn" leaves them out and says so.
        Grades above 0 make positives, 0 makes given negatives, below 0 says nothing. Broken lines are always
        refused.
        """
        store = partial(_store_of, source, split, Path(cache) if cache is not None else None, on_error)
        first_decides(store)
        folder = store()  # made again only by processes that do not share the first one's disk
        pairs = cls._load(folder, str(source))
        if writes():
            for note in pairs.notes:
                warnings.warn(note, stacklevel=2)
        return pairs

    @classmethod
    def _load(cls, folder: Path, source: str) -> Pairs:
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            positives, positive_scores = _read_lists(folder, "positives")
            negatives, negative_scores = _read_lists(folder, "negatives")
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{folder} is damaged ({error}); remove it, it will be made again.") from None
        if positives is None:
            raise UserError(f"{folder} is damaged (it has no positives); remove it, it will be made again.")
        return cls(
            name=manifest["name"],
            split=manifest["split"],
            source=source,
            queries=Passages(folder / QUERIES),
            passages=Passages(folder / PASSAGES),
            positives=positives,
            negatives=negatives,
            positive_scores=positive_scores,
            negative_scores=negative_scores,
            fingerprint=manifest["fingerprint"],
            has_corpus=manifest["has_corpus"],
            notes=tuple(manifest["notes"]),
        )


def _store_of(source: str | Path, split: str, cache: Path | None, on_error: OnError) -> Path:
    """The folder of the store, which is made now if it is not there."""
    found = find(source, split)
    folder = _folder(found, cache_folder() / "pairs" if cache is None else cache, on_error)
    _make_once(found, folder, on_error)
    return folder


def _folder(source: Source, cache: Path, on_error: OnError) -> Path:
    told = json.dumps([FORMAT, source.split, on_error, source.stamp])
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in source.name)
    return cache / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _make_once(source: Source, folder: Path, on_error: OnError) -> None:
    """Make the store unless it is there. Whoever is first renames it into place; the others' work is dropped."""
    if folder.is_dir():
        return
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        build(source, temporary, on_error)
        os.rename(temporary, folder)
    except OSError as error:
        if not folder.is_dir():
            raise UserError(
                f"the store of {source.content.place} cannot be written to {folder.parent} ({error}); make room "
                "or name another folder with RETROMAE_CACHE."
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_lists(folder: Path, side: Side) -> tuple[Lists | None, NDArray[np.float32] | None]:
    arrays = {
        name: np.asarray(np.load(path, mmap_mode="r"))
        for name in ("starts", "members", "scores")
        if (path := folder / f"{side}.{name}.npy").is_file()
    }
    lists = Lists(arrays["starts"], arrays["members"]) if "members" in arrays else None
    return lists, arrays.get("scores")
