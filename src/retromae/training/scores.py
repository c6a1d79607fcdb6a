"""A teacher's scores of (query, passage) pairs: made once, kept on disk, looked up by number.

    FOLDER/<fingerprint of the teacher>/<fingerprint of the pairs>/scores-<first>-<last>-<digest>.parquet

A file holds the scores of some pairs, the queries among them numbered `first` to `last`: columns `query_id`,
`passage_id` and `score`, and the numbers `query` and `passage`, by which rows are sorted. Numbers mean something in
one version of the data only, hence its fingerprint in the path: an id that comes to name another text never gets
the old one's score. Files are only ever added, each whole or not at all, so any number of processes may write.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from sentence_transformers import CrossEncoder

from retromae.core import distributed
from retromae.core.errors import UserError
from retromae.core.files import cache_folder, replacing
from retromae.text.candidates import Candidates
from retromae.text.pairs import Lists, Pairs
from retromae.training.cross_encoder import Scores, cross_encoder_fingerprint, score_numbers
from retromae.training.teacher_groups import take

PART_PAIRS = 8192
_NAME = re.compile(r"scores-(\d+)-(\d+)-[0-9a-f]+\.parquet")


def scores_folder(teacher: str | Path) -> Path:
    """Where a teacher's scores are kept: beside it, or in the user's cache for one that is no folder here."""
    return Path(teacher) / "scores" if Path(teacher).is_dir() else cache_folder() / "scores"


class _Part(NamedTuple):
    first: int
    last: int
    path: Path


class ScoreCache:
    """The scores that one teacher has given to pairs of texts of one version of the data."""

    def __init__(self, folder: str | Path, teacher: str, pairs: Pairs) -> None:
        """`teacher` is its fingerprint."""
        self.teacher, self.pairs = teacher, pairs
        self.folder = Path(folder) / teacher / pairs.fingerprint[:32]
        self.refresh()

    @classmethod
    def open(cls, folder: str | Path, pairs: Pairs) -> ScoreCache:
        """The scores in a folder where one teacher has scored these pairs, or in the run folder of a teacher."""
        for place in (Path(folder) / "scores", Path(folder)):
            found = sorted(place.glob(f"*/{pairs.fingerprint[:32]}"))
            if len(found) == 1:
                return cls(place, found[0].parent.name, pairs)
            if found:
                raise UserError(
                    f"{place} holds scores of {len(found)} teachers for these pairs; keep one folder for each."
                )
        raise UserError(
            f"{folder} holds no scores for '{pairs.source}', split {pairs.split!r}, as it is now; score it first."
        )

    def refresh(self) -> None:
        """Look again which files there are: other processes write, too."""
        named = ((_NAME.fullmatch(path.name), path) for path in sorted(self.folder.glob("scores-*.parquet")))
        self._parts = [_Part(int(match[1]), int(match[2]), path) for match, path in named if match]

    def lookup(self, queries: NDArray[Any], passages: NDArray[Any]) -> Scores:
        """(n,) scores of query `queries[i]` with passage `passages[i]`, both by number; NaN where there is none.

        Only files about these queries are read, one at a time.
        """
        found = np.full(len(queries), np.nan, dtype=np.float32)
        wanted = self._keys(queries, passages)
        ranking = np.argsort(wanted, kind="stable")
        wanted = wanted[ranking]
        width = len(self.pairs.passages)
        for part in self._parts:
            start, stop = np.searchsorted(wanted, [part.first * width, (part.last + 1) * width])
            if start == stop:
                continue
            keys, scores = self._read(part)
            places = np.minimum(np.searchsorted(keys, wanted[start:stop]), len(keys) - 1)
            hit = keys[places] == wanted[start:stop]
            found[ranking[start:stop][hit]] = scores[places[hit]]
        return found

    def add(self, queries: NDArray[Any], passages: NDArray[Any], scores: Scores) -> None:
        """Keep some scores, in one file."""
        if not len(queries):
            return
        ranking = np.argsort(self._keys(queries, passages), kind="stable")
        queries, passages, scores = (np.asarray(array)[ranking] for array in (queries, passages, scores))
        columns = {
            "query_id": pa.array(self.pairs.queries.ids_of(queries)).dictionary_encode(),
            "passage_id": pa.array(self.pairs.passages.ids_of(passages)),
            "score": pa.array(scores, pa.float32()),
            "query": pa.array(queries, pa.int32()),
            "passage": pa.array(passages, pa.int32()),
        }
        digest = hashlib.sha256(self._keys(queries, passages).tobytes()).hexdigest()[:16]
        first, last = int(queries[0]), int(queries[-1])
        path = self.folder / f"scores-{first:08d}-{last:08d}-{digest}.parquet"
        with replacing(path) as temporary:
            pq.write_table(pa.table(columns), temporary)
        self._parts.append(_Part(first, last, path))

    def _keys(self, queries: NDArray[Any], passages: NDArray[Any]) -> NDArray[np.int64]:
        keys: NDArray[np.int64] = np.asarray(queries, dtype=np.int64) * len(self.pairs.passages) + passages
        return keys

    def _read(self, part: _Part) -> tuple[NDArray[np.int64], Scores]:
        try:
            table = pq.read_table(part.path, columns=["query", "passage", "score"])
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{part.path} is damaged ({error}); delete it, and score again.") from None
        queries, passages, scores = (table.column(name).to_numpy() for name in table.column_names)
        return self._keys(queries, passages), np.asarray(scores, dtype=np.float32)


class TeacherScores(NamedTuple):
    """What a teacher says of every known answer and every candidate."""

    positives: Scores  # aligned with pairs.positives.members
    candidates: Scores  # aligned with candidates.lists.members
    cache: ScoreCache


def score_candidates(
    teacher: CrossEncoder,
    pairs: Pairs,
    candidates: Candidates,
    folder: str | Path,
    *,
    batch_tokens: int | None = None,
    bf16: bool = False,
    part_pairs: int = PART_PAIRS,
    progress: bool = False,
) -> TeacherScores:
    """Score every query with its known answers and its candidates, as far as `folder` does not hold that already.

    Under torchrun the processes share the work, and each gets all scores. Some `part_pairs` pairs are worked on at
    a time, and no more is lost by a kill. Scores are logits.
    """
    cache = ScoreCache(folder, cross_encoder_fingerprint(teacher, bf16=bf16), pairs)
    blocks = list(_blocks(pairs, candidates, part_pairs))
    work = [partial(_pairs_of, pairs, candidates, rows) for rows in blocks]
    _fill(teacher, cache, work, batch_tokens=batch_tokens, bf16=bf16, progress=progress)
    return TeacherScores(
        _look_up_all(cache, pairs.positives, blocks), _look_up_all(cache, candidates.lists, blocks), cache
    )


def score_pairs(
    teacher: CrossEncoder,
    pairs: Pairs,
    queries: NDArray[Any],
    passages: NDArray[Any],
    folder: str | Path,
    *,
    batch_tokens: int | None = None,
    bf16: bool = False,
    part_pairs: int = PART_PAIRS,
    progress: bool = False,
) -> Scores:
    """(n,) scores of query `queries[i]` with passage `passages[i]`, made and kept like those of `score_candidates`;
    cheapest where they come sorted by query."""
    cache = ScoreCache(folder, cross_encoder_fingerprint(teacher, bf16=bf16), pairs)
    parts = [slice(start, start + part_pairs) for start in range(0, len(queries), part_pairs)]
    work = [partial(_slice_of, queries, passages, part) for part in parts]
    _fill(teacher, cache, work, batch_tokens=batch_tokens, bf16=bf16, progress=progress)
    found = [cache.lookup(queries[part], passages[part]) for part in parts]
    return _complete(np.concatenate(found) if found else np.empty(0, dtype=np.float32), cache)


def _slice_of(
    queries: NDArray[Any], passages: NDArray[Any], part: slice
) -> tuple[NDArray[Any], NDArray[Any]]:
    return queries[part], passages[part]


def _fill(
    teacher: CrossEncoder,
    cache: ScoreCache,
    work: Sequence[Callable[[], tuple[NDArray[Any], NDArray[Any]]]],
    *,
    batch_tokens: int | None,
    bf16: bool,
    progress: bool,
) -> None:
    """Score what the cache lacks of each piece of work, the pieces shared out among the processes."""
    mine = work[distributed.rank() :: distributed.world_size()]
    with Progress(console=Console(stderr=True), disable=not (progress and distributed.writes())) as bar:
        task = bar.add_task("pairs scored by the teacher", total=len(mine))
        for piece in mine:
            queries, passages = piece()
            absent = np.isnan(cache.lookup(queries, passages))
            queries, passages = queries[absent], passages[absent]
            scores = score_numbers(
                teacher, cache.pairs, queries, passages, batch_tokens=batch_tokens, bf16=bf16
            )
            if not np.isfinite(scores).all():
                raise UserError(
                    "the teacher gives scores that are no numbers; its training has failed, or bf16 is too coarse."
                )
            cache.add(queries, passages, scores)
            bar.advance(task)
    distributed.barrier()
    cache.refresh()


def _blocks(pairs: Pairs, candidates: Candidates, part_pairs: int) -> Iterator[NDArray[np.int64]]:
    """Consecutive queries with about so many pairs to score; a query is never divided."""
    ends = pairs.positives.starts[1:] + candidates.lists.starts[1:]  # pairs up to and with each query
    start = 0
    while start < len(pairs):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + part_pairs, side="right")))
        yield np.arange(start, stop)
        start = stop


def _pairs_of(
    pairs: Pairs, candidates: Candidates, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every pair of these queries once: (queries, passages)."""
    width = len(pairs.passages)
    both = take(pairs.positives, rows), take(candidates.lists, rows)
    keys = np.unique(np.concatenate([rows[lists.owners] * width + lists.members for lists in both]))
    queries, passages = np.divmod(keys, width)
    return queries, passages


def _look_up_all(cache: ScoreCache, lists: Lists, blocks: list[NDArray[np.int64]]) -> Scores:
    """(m,) scores, aligned with the lists' members."""
    found = np.empty(len(lists.members), dtype=np.float32)
    for rows in blocks:
        part = take(lists, rows)
        start, stop = int(lists.starts[rows[0]]), int(lists.starts[rows[-1] + 1])
        found[start:stop] = cache.lookup(rows[part.owners], part.members)
    return _complete(found, cache)


def _complete(found: Scores, cache: ScoreCache) -> Scores:
    if np.isnan(found).any():
        raise UserError(
            f"{np.isnan(found).sum()} scores are missing in {cache.folder}; do all processes see the same folder?"
        )
    return found
