"""Several named ways to search the same passages, opened from one folder, to be compared or served.

    dense    the index with its encoder, and DupMAE's lexical half where the index has one
    bm25     words, built in memory from the index' passages
    fused    both: weighted as a run of `retromae adapt` chose it, otherwise by reciprocal ranks
    before   another index: the one of the untouched base that such a run keeps, or one that is named

An encoder that several of them need is opened once, and encodes the queries of all of them together.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from retromae.core.config import read_yaml
from retromae.core.errors import UserError
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.index import VectorIndex
from retromae.retrieval.lexical import BM25
from retromae.retrieval.search import Hit, Searcher
from retromae.retrieval.vectors import Vectors
from retromae.retrieval.ways import Dense, Fused, Lexical, System
from retromae.text.store import Passage

_AT_ONCE = 64  # queries encoded and searched together: a lexical half is as wide as the vocabulary
_DEFAULTS: dict[str, str] = {"dense": "dense", "bm25": "bm25", "fusion": "fused"}


class Asked(NamedTuple):
    """One question to one system."""

    system: str
    query: str
    k: int = 10


class Answer(NamedTuple):
    """Results, and the seconds of the passes in which the query was encoded and searched with others."""

    hits: list[Hit]
    encoding: float
    searching: float


@dataclass(frozen=True)
class Returned:
    """What system.json of a run says: which system it returned."""

    kind: Literal["dense", "bm25", "fusion"] = "dense"
    weight: float | None = None
    """The dense share of the fusion; None fuses by reciprocal ranks."""
    depth: int = 100
    """Results of each part that are fused."""

    @classmethod
    def read(cls, path: Path) -> Returned:
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
            read = cls(stated["kind"], stated["weight"], stated["depth"])
            share = 1.0 if read.weight is None else float(read.weight)
            sound = read.kind in _DEFAULTS and 0 <= share <= 1 and read.depth >= 1
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}); run `retromae adapt` again.") from None
        if not sound:
            raise UserError(f"{path} does not say what this version can serve; run `retromae adapt` again.")
        return read


class Systems(Mapping[str, System]):
    """Systems by name. `default` is the one that the run returned."""

    def __init__(
        self, systems: Mapping[str, System], default: str, indexes: Sequence[VectorIndex], language: str
    ) -> None:
        self._systems = dict(systems)
        self.default = default
        self.language = language
        """Whose words BM25 stems."""
        self.indexes = indexes
        """The passages that can be found: those of the first, and those of `before`."""

    def __getitem__(self, name: str) -> System:
        return self._systems[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._systems)

    def __len__(self) -> int:
        return len(self._systems)

    def search(self, query: str, k: int = 10, *, system: str | None = None) -> list[Hit]:
        """The best k passages by one system, the default one unless it is named."""
        return self.answer([Asked(system or self.default, query, k)])[0].hits

    def search_many(
        self, queries: Sequence[str], k: int = 10, *, system: str | None = None
    ) -> list[list[Hit]]:
        """The best k passages of each query."""
        name = system or self.default
        return [answer.hits for answer in self.answer([Asked(name, query, k) for query in queries])]

    def answer(self, asked: Sequence[Asked]) -> list[Answer]:
        """Any questions to any systems, in the fewest passes: one per encoder, one search per system and k."""
        for one in asked:
            if one.system not in self._systems:
                raise UserError(f"there is no system {one.system!r}; these are: {', '.join(self)}.")
        answers: list[Answer] = []
        for start in range(0, len(asked), _AT_ONCE):
            answers += self._answer(asked[start : start + _AT_ONCE])
        return answers

    def _answer(self, asked: Sequence[Asked]) -> list[Answer]:
        encoded: dict[int, tuple[Vectors, dict[str, int], float]] = {}
        for encoder in {id(e): e for one in asked if (e := self[one.system].encoder) is not None}.values():
            texts = list(dict.fromkeys(one.query for one in asked if self[one.system].encoder is encoder))
            start = time.perf_counter()
            vectors = encoder.encode_queries(texts)
            rows = {text: row for row, text in enumerate(texts)}
            encoded[id(encoder)] = vectors, rows, time.perf_counter() - start
        answers: dict[Asked, Answer] = {}
        for name, k in dict.fromkeys((one.system, one.k) for one in asked):
            texts = list(dict.fromkeys(one.query for one in asked if (one.system, one.k) == (name, k)))
            own, seconds = None, 0.0
            if self[name].encoder is not None:
                vectors, rows, seconds = encoded[id(self[name].encoder)]
                own = vectors.rows(np.array([rows[text] for text in texts]))
            start = time.perf_counter()
            found = self[name].find(texts, own, k)
            spent = time.perf_counter() - start
            for text, hits in zip(texts, found):
                answers[Asked(name, text, k)] = Answer(hits, seconds, spent)
        return [answers[one] for one in asked]

    def passage(self, identifier: str) -> Passage | None:
        """A passage of any of the indexes by its id."""
        for index in self.indexes:
            place = int(index.passages.numbers_of([identifier])[0])
            if place >= 0:
                return index.passages[place]
        return None


def open_systems(
    folder: str | Path,
    *,
    against: str | Path | None = None,
    model: str | Path | None = None,
    device: str | None = None,
    language: str | None = None,
) -> Systems:
    """Open a run of `retromae adapt` or an index.

    `against` names another index, which becomes `before`. `model` says where the index' encoder lies now, if it was
    moved; in a run that is its own model/. `language` is the Snowball language of BM25: left out, the run's own, or
    English.
    """
    folder = Path(folder)
    place, returned, own = _what(folder)
    language = language or _language(folder)
    encoders = _Encoders(device)
    index = VectorIndex(place)
    searcher = encoders.searcher(index, model or own)
    dense = Dense(searcher, "Dense and lexical vectors" if index.lexical is not None else "Dense vectors")
    systems: dict[str, System] = {"dense": dense}
    try:
        bm25 = BM25.build(index.passages, language=language)
    except UserError as error:
        if returned.kind != "dense":
            raise
        warnings.warn(f"BM25 and the fusion are left out: {error}", stacklevel=2)
    else:
        systems["bm25"] = lexical = Lexical(bm25, index)
        systems["fused"] = Fused(dense, lexical, returned.weight, returned.depth)
    before = _before(folder, against, encoders)
    if before is not None:
        systems["before"] = before
    indexes = [index] if before is None else [index, before.searcher.index]
    return Systems(systems, _DEFAULTS[returned.kind], indexes, language)


def _what(folder: Path) -> tuple[Path, Returned, Path | None]:
    """The index, the system that was returned, and the model of a run."""
    if (folder / "index.json").is_file():
        return folder, Returned(), None
    inner, stated = folder / "index", folder / "system.json"
    if not inner.is_dir():
        if (folder / "adapt.json").is_file() or stated.is_file():
            raise UserError(f"the run in {folder} has no index yet; finish it with `retromae adapt` first.")
        raise UserError(
            f"{folder} is no run of `retromae adapt` and no index; make an index with `retromae index`."
        )
    own = folder / "model"
    return inner, Returned.read(stated) if stated.exists() else Returned(), own if own.is_dir() else None


def _language(folder: Path) -> str:
    """The language that a run was told."""
    config = folder / "config.yaml"
    return str(read_yaml(config).get("language") or "english") if config.is_file() else "english"


def _before(folder: Path, against: str | Path | None, encoders: _Encoders) -> Dense | None:
    if against is not None:
        return Dense(encoders.searcher(VectorIndex(against), None), f"Before: {Path(against).name}")
    kept = folder / "base_index"
    if not kept.is_dir():
        return None
    try:
        return Dense(encoders.searcher(VectorIndex(kept), None), "Before: the untouched base")
    except UserError as error:  # it is only there to be compared with
        warnings.warn(f"the base is left out: {error}", stacklevel=3)
        return None


class _Encoders:
    """Opens each encoder once."""

    def __init__(self, device: str | None) -> None:
        self._device = device
        self._opened: dict[str, Encoder] = {}

    def searcher(self, index: VectorIndex, model: str | Path | None) -> Searcher:
        key = index.fingerprint + json.dumps(index.settings, sort_keys=True)
        if key in self._opened:
            return Searcher(index, self._opened[key])
        source = model or index.source
        if not source:
            raise UserError(f"the index {index.folder} does not name its model; say which it is.")
        searcher = Searcher(index, Encoder.open(source, device=self._device, **index.settings))
        self._opened[key] = searcher.encoder
        return searcher
