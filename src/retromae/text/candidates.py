"""Passages to be looked at for each query, best first: mined negatives, a run, a group to re-rank."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retromae.core.errors import UserError
from retromae.core.files import replacing_folder, restore, write_json
from retromae.core.ranking import Run, read_trec
from retromae.text.pairs import Lists, Pairs

_FILE, _MANIFEST = "candidates.arrow", "manifest.json"
_RUNS = (".trec", ".run", ".txt")
_SCHEMA = pa.schema(
    [("passages", pa.large_list(pa.int32())), ("scores", pa.large_list(pa.float32()))],
)


@dataclass(frozen=True, eq=False)
class Candidates:
    """For query number i of some pairs the passages `lists[i]`; it may have none."""

    lists: Lists
    scores: NDArray[np.float32]  # (m,) aligned with lists.members
    facts: dict[str, Any]
    """How they were made."""

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.lists.members):
            raise ValueError(f"{len(self.scores)} scores for {len(self.lists.members)} candidates")

    def __len__(self) -> int:
        return len(self.lists)

    def write(self, folder: str | Path, pairs: Pairs) -> None:
        """Write them, with the fingerprint of the pairs whose numbers they use; the folder appears whole."""
        folder = Path(folder)
        members = self.lists.members
        if len(self) != len(pairs) or (members.size and int(members.max()) >= len(pairs.passages)):
            raise ValueError(f"these candidates are not of the pairs {pairs.name!r}")
        strange = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
        if strange and _manifest(folder) is None:
            raise UserError(f"{folder} holds something else than candidates; name a new folder.")
        columns = [
            pa.LargeListArray.from_arrays(pa.array(self.lists.starts), pa.array(values))
            for values in (members, self.scores)
        ]
        with replacing_folder(folder) as temporary:
            with pa.OSFile(str(temporary / _FILE), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
            manifest = {
                "kind": "candidates",
                "format": 1,
                "pairs": pairs.fingerprint,
                "name": pairs.name,
                "split": pairs.split,
                "candidates": len(members),
                "facts": self.facts,
            }
            write_json(temporary / _MANIFEST, manifest)

    @classmethod
    def open(cls, path: str | Path, pairs: Pairs) -> Candidates:
        """A folder that `write` made for the same data, or a TREC run (.trec, .run, .txt, perhaps .gz) by ids."""
        path = Path(path)
        if path.name.removesuffix(".gz").endswith(_RUNS) and not path.is_dir():
            return cls.from_run(read_trec(path), pairs, {"run": str(path)})
        restore(path)
        manifest = _known(path)
        try:
            batch = pa.ipc.open_file(pa.memory_map(str(path / _FILE))).get_batch(0)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path} is damaged ({error}); make it again.") from None
        if manifest["pairs"] != pairs.fingerprint:
            raise UserError(
                f"{path} belongs to other data (made for {manifest['name']!r}, split {manifest['split']!r}) than "
                f"{pairs.source}, split {pairs.split!r}; mine again."
            )
        passages, scores = batch.columns
        lists = Lists(passages.offsets.to_numpy(), passages.values.to_numpy())
        return cls(lists, scores.values.to_numpy(), manifest["facts"])

    @staticmethod
    def facts_of(path: str | Path) -> dict[str, Any]:
        """The facts of a folder alone: its candidates are not looked at, and need not be there any more."""
        facts: dict[str, Any] = _known(Path(path))["facts"]
        return facts

    @classmethod
    def given(cls, pairs: Pairs) -> Candidates | None:
        """The negatives that the pairs came with, if they did."""
        if pairs.negatives is None:
            return None
        scores = pairs.negative_scores
        blank = np.zeros(len(pairs.negatives.members), dtype=np.float32)
        return cls(pairs.negatives, blank if scores is None else scores, {"source": "given with the pairs"})

    @classmethod
    def from_run(
        cls,
        run: Run,
        pairs: Pairs,
        facts: Mapping[str, Any] | None = None,
        *,
        queries: NDArray[np.integer[Any]] | None = None,
    ) -> Candidates:
        """From a run by ids, in its order. `queries` are the numbers of its queries where their ids are others.

        Queries that the run lacks have no candidates. Queries of the run that the pairs lack are passed over and
        counted in the facts; a passage that the pairs lack is refused.
        """
        offsets, documents, scores, ids = run.flat()
        numbers = pairs.queries.numbers_of(list(run)) if queries is None else queries  # (run's queries,)
        rows = np.full(len(pairs), -1, dtype=np.int64)  # query number → place in the run
        rows[numbers[numbers >= 0]] = np.flatnonzero(numbers >= 0)
        there = rows >= 0
        lengths = np.where(there, offsets[rows + 1] - offsets[rows], 0)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        # (m,) for each candidate its place in the run's flat arrays
        places = np.arange(starts[-1]) + np.repeat(offsets[rows] - starts[:-1], lengths)
        used, back = np.unique(documents[places], return_inverse=True)
        names = [ids[place] for place in used.tolist()]
        found = pairs.passages.numbers_of(names)
        if (found < 0).any():
            raise UserError(
                f"the run names the passage {names[int(np.argmin(found))]!r}, which is not in the data "
                f"{pairs.source}; take the run of the same corpus."
            )
        counted = {**(facts or {}), "unknown_queries": int(np.sum(numbers < 0))}
        return cls(Lists(starts, found[back]), scores[places].astype(np.float32), counted)

    def to_run(self, pairs: Pairs) -> Run:
        """As a run by ids, for fusion and evaluation or for `core.ranking.write_trec`."""
        used, back = np.unique(self.lists.members, return_inverse=True)
        queries = pairs.queries.ids
        return Run(queries, self.lists.lengths, back, self.scores, pairs.passages.ids_of(used))


def _manifest(folder: Path) -> dict[str, Any] | None:
    """What a folder of candidates says of itself; None for any other folder."""
    try:
        found = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("kind") == "candidates" else None


def _known(path: Path) -> dict[str, Any]:
    manifest = _manifest(path)
    if manifest is None:
        raise UserError(
            f"{path} holds no candidates: expected a folder that `retromae mine` made, or a TREC run "
            f"({', '.join(_RUNS)}; .gz too)."
        )
    return manifest
