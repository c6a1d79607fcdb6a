"""An index on disk: dense vectors in faiss, the lexical half beside them, the passages, and whose vectors they are.

    index/index.json       kind and parameters, the encoder's fingerprint and how to open it, sizes of the files
          dense.faiss      the dense half
          vectors.npy      whole vectors, memory-mapped, where faiss keeps less and candidates are scored again
          lexical/         the lexical half, where there is one
          passages.arrow   ids, titles, texts
          ranks.npy        where each id stands when all are sorted: equal scores go by id

The folder is written whole or not at all. A query vector of another encoder is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import vstack

from retromae.core.errors import UserError
from retromae.core.files import remove_left_overs, replacing_folder, restore, write_json
from retromae.core.ranking import Run, id_ranks
from retromae.retrieval import kinds
from retromae.retrieval.inverted import InvertedIndex, build_inverted
from retromae.retrieval.scoring import best_of, candidate_scores
from retromae.retrieval.shards import VectorStore
from retromae.retrieval.vectors import Vectors
from retromae.text.store import Passages, copy_passages

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
# Some of the queries, a number → so many candidates of each and their scores, best first
Near = Callable[[Integers, int], tuple[Integers, Floats]]

_FILE = "index.json"
_BLOCK = 1 << 20  # numbers of a block of vectors that are scored at once: they stay in the cache
_QUERIES = 64  # queries whose lexical halves are held as full rows
_SCORES = 1 << 25  # of queries with all documents, held at once: 128 MiB
_SPARE = 32  # candidates beyond k, so that ties at the cut are seen
_ROUNDING = 4e-6  # of float32 scores, for vectors of length 1
_QUERY_TERMS = 64  # a query's largest terms find the candidates of the lexical half


class Found(NamedTuple):
    """Positions of documents and their scores, (queries, k), best first; position −1 is no result."""

    places: Integers
    scores: Floats


class VectorIndex:
    """One index, opened. Make it with `build_index`."""

    def __init__(self, folder: str | Path, **search_parameters: int) -> None:
        """`search_parameters` (effort, probes, rescore) overrule those that the index was built with."""
        self.folder = Path(folder)
        restore(self.folder)
        facts = _read_facts(self.folder)
        self.kind: str = facts["kind"]
        self.fingerprint: str = facts["fingerprint"]
        self.dimension: int = facts["dimension"]
        self.source: str = facts["source"]
        self.settings: dict[str, Any] = facts["settings"]
        self.parameters = kinds.parameters_of(self.kind, {**facts["parameters"], **search_parameters})
        self.passages = Passages(self.folder / "passages.arrow")
        self.ranks: npt.NDArray[np.int32] = np.load(self.folder / "ranks.npy", mmap_mode="r")
        self._longest: float = facts["longest"]
        self._dense = kinds.read(str(self.folder / "dense.faiss"), self.parameters)
        whole = kinds.whole_vectors(self._dense, self.parameters)
        if whole is None and (self.folder / "vectors.npy").is_file():
            whole = np.load(self.folder / "vectors.npy", mmap_mode="r")
        self._vectors: npt.NDArray[Any] | None = whole
        self.lexical = InvertedIndex(self.folder / "lexical") if facts["vocabulary"] is not None else None

    def __len__(self) -> int:
        return len(self.ranks)

    @property
    def size(self) -> int:
        """Bytes of the dense half's index, without whole vectors kept beside it."""
        return (self.folder / "dense.faiss").stat().st_size

    @property
    def keeps_whole(self) -> bool:
        """Are the dense vectors here as they were encoded?"""
        return self._vectors is not None

    def run(self, queries: Sequence[str], vectors: Vectors, k: int, *, depth: int | None = None) -> Run:
        """The best k documents of each query, by query id."""
        found = self.search(vectors, k, depth=depth)
        return Run.from_top_k(list(queries), found.places, found.scores, self.passages.ids)

    def search(self, vectors: Vectors, k: int, *, depth: int | None = None) -> Found:
        """The best min(k, n) documents of each query; equal scores by document id.

        With a lexical half the score is the sum of both, over all documents; `depth` scores only that many
        candidates of each half instead. Without one, `flat` is exact and the other kinds are what they are.
        """
        self._check(vectors)
        if k < 1 or (depth is not None and depth < 1):
            raise UserError(f"at least 1 result and 1 candidate must be asked for, not {k} and {depth}.")
        k = min(k, len(self))
        if self.lexical is None:
            return (self._flat if isinstance(self.parameters, kinds.Flat) else self._approximate)(vectors, k)
        size = max(1, min(_QUERIES, _SCORES // max(1, len(self))))
        found = [Found(np.empty((0, k), np.int64), np.empty((0, k), np.float32))]
        for start in range(0, len(vectors), size):
            part = vectors.rows(slice(start, start + size))
            assert part.lexical is not None
            weights: Floats = part.lexical.toarray()  # (q, V)
            found.append(
                self._hybrid(part, k, weights) if depth is None else self._candidates(part, k, weights, depth)
            )
        return Found(*(np.concatenate(arrays) for arrays in zip(*found)))

    def document_vectors(self, places: Sequence[int]) -> Vectors:
        """The vectors of some documents, both halves; what faiss remembers where the whole ones are not kept."""
        if self._vectors is not None:
            dense = np.asarray(self._vectors[list(places)], dtype=np.float32)
        elif isinstance(self.parameters, kinds.Binary):
            raise UserError(
                f"{self.folder} keeps signs only, so scores cannot be explained; build with rescore."
            )
        else:
            if isinstance(self.parameters, kinds.IVFPQ):
                self._dense.make_direct_map()
            dense = np.stack([self._dense.reconstruct(int(place)) for place in places])
        rows = None
        if self.lexical is not None:
            rows = vstack([self.lexical.row(int(place)) for place in places], format="csr")
        return Vectors(dense, rows, self.fingerprint)

    # The ways to search

    def _check(self, vectors: Vectors) -> None:
        if vectors.fingerprint != self.fingerprint:
            raise UserError(
                f"the index {self.folder} was made by another model, or with other prompts "
                f"({self.source or self.fingerprint}); encode queries with that one, or encode and index again."
            )
        finite = np.isfinite(vectors.dense).all(axis=1)
        if not finite.all():
            raise UserError(
                f"the vector of query {int(np.flatnonzero(~finite)[0]) + 1} holds NaN or infinity."
            )

    def _flat(self, queries: Vectors, k: int) -> Found:
        """Exact, by faiss' scores of the dense half."""
        doubt = _ROUNDING * self._longest * np.linalg.norm(queries.dense, axis=1)  # (q,)
        return self._surely(
            queries,
            k,
            doubt,
            lambda rows, n: kinds.search(self._dense, self.parameters, queries.dense[rows], n),
        )

    def _hybrid(self, queries: Vectors, k: int, weights: Floats) -> Found:
        """Exact, by both halves with every document: products in float32, and the postings of a query's terms."""
        assert self._vectors is not None and self.lexical is not None
        rough = np.stack([self.lexical.scores(query) for query in weights])  # (q, n)
        doubt = _ROUNDING * (
            self._longest * np.linalg.norm(queries.dense, axis=1) + np.abs(rough).max(axis=1)
        )
        step = max(1, _BLOCK // self.dimension)
        aligned = np.empty((step, self.dimension), dtype=np.float32)  # unlike mapped ones: for fast products
        for start in range(0, len(self), step):
            block = aligned[: min(step, len(self) - start)]
            np.copyto(block, self._vectors[start : start + step])
            rough[:, start : start + step] += queries.dense @ block.T

        def near(rows: Integers, n: int) -> tuple[Integers, Floats]:
            places = np.stack([_largest(rough[row], n) for row in rows])
            return best_of(rough[rows[:, None], places], places, self.ranks, n)

        return self._surely(queries, k, doubt, near, weights)

    def _surely(
        self, queries: Vectors, k: int, doubt: Floats, near: Near, weights: Floats | None = None
    ) -> Found:
        """The best k, from candidates with rough scores, right within `doubt` (q,): `near` gives so many, best first.

        More are fetched while one that was not could still be among the best.
        """
        places = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        pending, fetch = np.arange(len(queries)), min(k + _SPARE, len(self))
        while len(pending):
            found, rough = near(pending, fetch)
            exact = self._scores(queries.dense[pending], found, None if weights is None else weights[pending])
            places[pending], scores[pending] = best_of(exact, found, self.ranks, k)
            open_ = rough[:, -1] >= scores[pending, -1] - 2 * doubt[pending]
            pending = pending[open_ & (fetch < len(self))]
            fetch = min(8 * fetch, len(self))
        return Found(places, scores)

    def _scores(self, queries: Floats, places: Integers, weights: Floats | None) -> Floats:
        """(q, c): each query with its own candidates, both halves where there are two."""
        assert self._vectors is not None
        scores = candidate_scores(queries, self._vectors, places)
        if self.lexical is not None and weights is not None:
            scores += self.lexical.candidate_scores(weights, places)
        return scores

    def _approximate(self, queries: Vectors, k: int) -> Found:
        times = getattr(self.parameters, "rescore", 1)
        fetch = min(max(k * times, k), len(self))
        places, scores = kinds.search(self._dense, self.parameters, queries.dense, fetch)
        if self._vectors is not None and times:
            scores = self._scores(queries.dense, places, None)
        return Found(*best_of(scores, places, self.ranks, k))

    def _candidates(self, queries: Vectors, k: int, weights: Floats, depth: int) -> Found:
        """The `depth` best of each half, found in its own index, then scored exactly by both."""
        assert self.lexical is not None
        depth = min(max(k, depth), len(self))
        dense, _ = kinds.search(self._dense, self.parameters, queries.dense, depth)
        lexical = np.stack([_largest(self.lexical.scores(query, _QUERY_TERMS), depth) for query in weights])
        places = np.sort(np.concatenate([dense, lexical], axis=1), axis=1)
        places[:, 1:][places[:, 1:] == places[:, :-1]] = -1  # found by both halves: once is enough
        return Found(*best_of(self._scores(queries.dense, places, weights), places, self.ranks, k))


def _largest(scores: Floats, count: int) -> Integers:
    """(n,) → where its largest are, in no order."""
    return np.argpartition(-scores, count - 1)[:count]


def build_index(store: VectorStore, folder: str | Path, kind: str = "flat", **parameters: Any) -> VectorIndex:
    """Index a folder of vectors; `kind` and its parameters are those of `kinds.KINDS`. Shards are read in pieces."""
    chosen = kinds.parameters_of(kind, parameters)
    manifest = store.manifest
    keeps = getattr(chosen, "rescore", 0) > 0
    if manifest.vocabulary is not None and not keeps and not isinstance(chosen, kinds.Flat | kinds.HNSW):
        raise UserError(
            f"an index of kind {kind} beside a lexical half needs whole vectors; leave rescore above 0."
        )
    ids = store.ids()
    if len(set(ids)) < len(ids):
        raise UserError(f"{store.folder} holds a document id twice; ids must be unique.")
    longest = store.longest()
    remove_left_overs(folder)
    with replacing_folder(folder) as temporary:
        np.save(temporary / "ranks.npy", id_ranks(ids).astype(np.int32))
        copy_passages(temporary / "passages.arrow", (shard.passages for shard in store.shards()))
        if keeps:
            store.copy_dense(temporary / "vectors.npy")
        if manifest.vocabulary is not None:
            rows = lambda: (shard.lexical_parts for shard in store.shards())  # noqa: E731
            build_inverted(temporary / "lexical", rows, manifest.vocabulary)
        index = kinds.build(chosen, manifest.dimension, len(store), store.pieces)
        kinds.write(index, str(temporary / "dense.faiss"))
        del index
        files = {
            str(path.relative_to(temporary)): path.stat().st_size
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        facts = {
            "kind": kind,
            "parameters": vars(chosen),
            "documents": len(store),
            "longest": longest,
            **{
                name: getattr(manifest, name)
                for name in ("fingerprint", "dimension", "vocabulary", "source", "settings")
            },
            "files": files,
        }
        write_json(temporary / _FILE, facts)
    return VectorIndex(folder)


def _read_facts(folder: Path) -> dict[str, Any]:
    """index.json, after a look at the size of every file."""
    try:
        facts: dict[str, Any] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        broken = [
            name
            for name, size in facts["files"].items()
            if not (folder / name).is_file() or (folder / name).stat().st_size != size
        ]
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no index ({_FILE} is missing); make one with `retromae index`."
        ) from None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{folder / _FILE} is damaged ({error}); build the index again.") from None
    if broken:
        raise UserError(f"{folder / broken[0]} is missing or truncated; build the index again.")
    return facts
