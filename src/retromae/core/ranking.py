"""Rankings: the `Run` that flows from search through fusion to evaluation, and exact top-k.

One order everywhere: higher scores first, and equal scores by document id, ascending (code points). It never
depends on insertion order, batch, shard or thread, so two searches of the same vectors give the same figures.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from retromae.core.errors import UserError
from retromae.core.files import replacing

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Ranking(NamedTuple):
    """One query's results, best first."""

    ids: list[str]
    scores: Floats


class Run(Mapping[str, Ranking]):
    """Query id → `Ranking`, held as four flat arrays (12 bytes a result, plus the document ids once each).

    Queries keep the order they came in. A query may have no results.
    """

    def __init__(
        self,
        queries: Sequence[str],
        lengths: npt.ArrayLike,
        documents: npt.ArrayLike,
        scores: npt.ArrayLike,
        ids: Sequence[str],
    ) -> None:
        """`lengths[q]` results of query q stand together in `documents` (positions in `ids`) and `scores`.

        Within a query they may come in any order; the constructor sorts them.
        """
        counts = np.asarray(lengths, dtype=np.int64)
        places = np.asarray(documents, dtype=np.int32)
        values = np.asarray(scores, dtype=np.float64)
        if len(counts) != len(queries) or counts.sum() != len(places) or len(places) != len(values):
            raise ValueError("queries, lengths, documents and scores of a run do not fit together")
        self._queries = list(queries)
        self._rows = {query: row for row, query in enumerate(self._queries)}
        if len(self._rows) != len(self._queries):
            raise UserError("a run holds a query id twice; query ids must be unique.")
        owner = np.repeat(np.arange(len(counts)), counts)  # (results,) the row each result belongs to
        if not np.isfinite(values).all():
            query = self._queries[owner[np.flatnonzero(~np.isfinite(values))[0]]]
            raise UserError(f"query {query!r} has a score that is NaN or infinite; look at its vector first.")
        order = _order(owner, values, places, ids)
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        self._documents, self._scores, self._ids = places[order], values[order], ids
        self._refuse_repeats(owner)

    def _refuse_repeats(self, owner: Integers) -> None:
        pairs = owner * max(1, len(self._ids)) + self._documents
        pairs.sort()
        repeated = np.flatnonzero(pairs[1:] == pairs[:-1])
        if repeated.size:
            row, place = divmod(int(pairs[repeated[0]]), len(self._ids))
            raise UserError(
                f"query {self._queries[row]!r} has document {self._ids[place]!r} twice in one ranking; "
                "a document may be ranked once."
            )

    @classmethod
    def from_dict(cls, run: Mapping[str, Mapping[str, float]]) -> Run:
        """From query id → document id → score."""
        places: dict[str, int] = {}
        documents = [places.setdefault(d, len(places)) for found in run.values() for d in found]
        scores = [score for found in run.values() for score in found.values()]
        return cls(list(run), [len(found) for found in run.values()], documents, scores, list(places))

    @classmethod
    def from_top_k(
        cls, queries: Sequence[str], indices: npt.ArrayLike, scores: npt.ArrayLike, ids: Sequence[str]
    ) -> Run:
        """From (queries, k) positions in `ids` and scores; position -1 (faiss's padding) is no result."""
        places, values = np.asarray(indices), np.asarray(scores)
        if places.shape != values.shape or places.shape[:1] != (len(queries),):
            raise ValueError(f"{len(queries)} queries, indices {places.shape} and scores {values.shape}")
        found = places >= 0
        return cls(queries, found.sum(axis=1), places[found], values[found], ids)

    def __getitem__(self, query: str) -> Ranking:
        row = self._rows[query]
        part = slice(self._offsets[row], self._offsets[row + 1])
        return Ranking([self._ids[place] for place in self._documents[part].tolist()], self._scores[part])

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)

    def __repr__(self) -> str:
        return f"Run({len(self)} queries, {len(self._documents)} results)"

    def __eq__(self, other: object) -> bool:
        """The same queries with the same documents and scores; the order of the queries does not matter."""
        if not isinstance(other, Run) or self._rows.keys() != other._rows.keys():
            return False
        return all(
            mine.ids == theirs.ids and np.array_equal(mine.scores, theirs.scores)
            for mine, theirs in ((self[query], other[query]) for query in self)
        )

    __hash__ = None  # type: ignore[assignment]

    def flat(self) -> tuple[Integers, npt.NDArray[np.int32], Floats, Sequence[str]]:
        """(offsets, documents, scores, ids), the run's own arrays: not to be written to.

        Query q's results, best first, are `documents[offsets[q]:offsets[q + 1]]`, positions in `ids`.
        """
        return self._offsets, self._documents, self._scores, self._ids

    def cut(self, k: int) -> Run:
        """The first k results of every query."""
        lengths = np.diff(self._offsets)
        position = np.arange(len(self._documents)) - np.repeat(self._offsets[:-1], lengths)
        return self._only(position < k)

    def without_self(self) -> Run:
        """Leave out results whose document id is the query's own id (ArguAna, Quora)."""
        rows = np.array([self._rows.get(document, -1) for document in self._ids], dtype=np.int64)  # (ids,)
        owner = np.repeat(np.arange(len(self)), np.diff(self._offsets))
        return self._only(rows[self._documents] != owner)

    def _only(self, keep: npt.NDArray[np.bool_]) -> Run:
        owner = np.repeat(np.arange(len(self)), np.diff(self._offsets))
        lengths = np.bincount(owner[keep], minlength=len(self))
        return Run(self._queries, lengths, self._documents[keep], self._scores[keep], self._ids)


def _order(owner: Integers, scores: Floats, documents: npt.NDArray[np.int32], ids: Sequence[str]) -> Integers:
    """The permutation that sorts by (owner, -score, document id); only the ids of ties are compared."""
    order: Integers = np.lexsort((-scores, owner))
    same = (np.diff(scores[order]) == 0) & (np.diff(owner[order]) == 0)
    if same.any():
        tied = np.unique(documents[order[np.concatenate([same, [False]]) | np.concatenate([[False], same])]])
        rank = np.zeros(len(ids), dtype=np.int64)
        rank[tied] = id_ranks([ids[place] for place in tied.tolist()])
        order = np.lexsort((rank[documents], -scores, owner))
    return order


def id_ranks(ids: Sequence[str]) -> Integers:
    """Where each id stands when all are sorted: compare these integers instead of the strings."""
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return ranks


def top_k(
    scores: npt.NDArray[Any], ids: Sequence[str] | Integers, k: int
) -> tuple[Integers, npt.NDArray[Any]]:
    """The best min(k, N) columns of each row of `scores` (queries, N), best first.

    `ids` are the N document ids, or `id_ranks` of them, made once for many calls. Ties are broken at the cut
    too: of several documents that share the last place's score, those with the smallest ids are in. Returns
    the columns and their scores, both (queries, k), as `Run.from_top_k` takes them.
    """
    ranks = ids if isinstance(ids, np.ndarray) else id_ranks(ids)
    n = scores.shape[1]
    if n != len(ranks):
        raise ValueError(f"{n} columns of scores for {len(ranks)} documents")
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}.")
    k = min(k, n)
    if not k:
        return np.empty((len(scores), 0), dtype=np.int64), np.empty((len(scores), 0), dtype=scores.dtype)
    # (queries, k) in no order yet; numpy sorts NaN last, so a NaN anywhere is among the best
    best: Integers = np.argpartition(scores, n - k, axis=1)[:, n - k :]
    last = np.take_along_axis(scores, best, axis=1).min(axis=1)  # (queries,) the score at the cut
    if np.isnan(last).any():
        row = np.flatnonzero(np.isnan(last))[0]
        raise UserError(f"row {row} of the scores holds a NaN; look at its vector first.")
    crowded = np.flatnonzero(np.count_nonzero(scores >= last[:, None], axis=1) > k)
    for row in crowded.tolist():
        above, level = np.flatnonzero(scores[row] > last[row]), np.flatnonzero(scores[row] == last[row])
        free = k - above.size
        best[row] = np.concatenate([above, level[np.argpartition(ranks[level], free - 1)[:free]]])
    values = np.take_along_axis(scores, best, axis=1)
    order = np.lexsort((ranks[best], -values), axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(values, order, axis=1)


def read_trec(path: str | Path) -> Run:
    """Read a TREC run (`query Q0 document rank score tag`), plain or .gz, ordered by score.

    Its ranks are not believed.
    """
    rows: dict[str, list[tuple[int, float]]] = {}
    places: dict[str, int] = {}
    for number, line in _lines(Path(path)):
        try:
            query, _, document, _, score, _ = line.split()
            rows.setdefault(query, []).append((places.setdefault(document, len(places)), float(score)))
        except ValueError:
            raise UserError(
                f"{path}, line {number} is not `query Q0 document rank score tag`: {line.strip()[:80]!r}."
            ) from None
    flat = np.array(list(itertools.chain.from_iterable(rows.values())), dtype=np.float64).reshape(-1, 2)
    return Run(list(rows), [len(row) for row in rows.values()], flat[:, 0], flat[:, 1], list(places))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines that are not blank."""
    try:
        with _open_text(path, path, "rt") as stream:
            yield from ((number, line) for number, line in enumerate(stream, 1) if not line.isspace())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; is it a TREC run?") from None


def _open_text(path: Path, named: Path, mode: Literal["rt", "wt"]) -> IO[str]:
    """Open `path` as what `named` ends in: plain text or .gz."""
    if named.suffix == ".gz":
        return cast(IO[str], gzip.open(path, mode, encoding="utf-8"))
    return cast(IO[str], open(path, mode, encoding="utf-8"))


def write_trec(path: str | Path, run: Run, tag: str = "retromae") -> None:
    """Write a TREC run, plain or .gz, query by query; the file appears whole.

    Queries without results leave no line.
    """
    if not _is_token(tag):
        raise UserError(f"the tag of a TREC run must be one word, got {tag!r}.")
    with replacing(path) as temporary, _open_text(temporary, Path(path), "wt") as stream:
        for query, (ids, scores) in run.items():
            for bad in itertools.filterfalse(_is_token, [query, *ids]):
                raise UserError(
                    f"the id {bad!r} is empty or holds white space, which a TREC run cannot express."
                )
            stream.writelines(
                f"{query} Q0 {document} {rank} {score!r} {tag}\n"
                for rank, (document, score) in enumerate(zip(ids, scores.tolist()), 1)
            )


def _is_token(text: str) -> bool:
    return text.split() == [text]
