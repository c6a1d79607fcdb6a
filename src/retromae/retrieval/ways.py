"""The ways to search that `systems` names: vectors, words, and both together; each says why it found what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from retromae.core.ranking import Ranking, Run
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.fusion import reciprocal_rank, weighted
from retromae.retrieval.index import VectorIndex
from retromae.retrieval.lexical import BM25
from retromae.retrieval.search import Hit, Searcher
from retromae.retrieval.vectors import Explanation, Vectors, explain

TERMS = 10  # matching terms that are told


class System(Protocol):
    """One way to search."""

    @property
    def label(self) -> str:
        """What it is, for people."""
        ...

    @property
    def encoder(self) -> Encoder | None:
        """Encodes the queries; None where words are enough."""
        ...

    def find(self, queries: Sequence[str], vectors: Vectors | None, k: int) -> list[list[Hit]]:
        """The best k passages of each query; `vectors` are those of its encoder."""
        ...


class Dense:
    """An index and its encoder."""

    def __init__(self, searcher: Searcher, label: str) -> None:
        self.searcher, self.encoder, self.label = searcher, searcher.encoder, label

    def find(self, queries: Sequence[str], vectors: Vectors | None, k: int) -> list[list[Hit]]:
        assert vectors is not None
        found = self.searcher.index.search(vectors, k)
        return [
            self._hits(vectors.rows(slice(row, row + 1)), places.tolist(), scores.tolist())
            for row, (places, scores) in enumerate(zip(found.places, found.scores))
        ]

    def _hits(self, query: Vectors, places: list[int], scores: list[float]) -> list[Hit]:
        index = self.searcher.index
        kept = [(place, score) for place, score in zip(places, scores) if place >= 0]
        if index.lexical is None or not kept:
            return [Hit(index.passages[place], score, Explanation(score, 0.0, [])) for place, score in kept]
        documents = index.document_vectors([place for place, _ in kept])
        return [
            Hit(
                index.passages[place],
                score,
                explain(query, documents.rows(slice(row, row + 1)), self.encoder.term, TERMS),
            )
            for row, (place, score) in enumerate(kept)
        ]


class Lexical:
    """BM25; results come with what each word of the query adds to their score."""

    encoder: None = None
    label = "BM25: words"

    def __init__(self, bm25: BM25, index: VectorIndex) -> None:
        self.bm25, self.index = bm25, index

    def find(self, queries: Sequence[str], vectors: Vectors | None, k: int) -> list[list[Hit]]:
        run = self.bm25.search(_named(queries), k)
        found = []
        for query, (ids, scores) in zip(queries, run.values()):
            places = self.index.passages.numbers_of(ids).tolist()
            found.append(
                [
                    Hit(self.index.passages[place], score, Explanation(0.0, score, terms[:TERMS]))
                    for place, score, terms in zip(places, scores.tolist(), self.bm25.shares(query, places))
                ]
            )
        return found


class Fused:
    """Dense and BM25 together. The two parts of a hit's score are what each adds to the fused one."""

    def __init__(self, dense: Dense, lexical: Lexical, weight: float | None, depth: int) -> None:
        """`weight` is the dense share, None fuses by reciprocal ranks; `depth` results of each are fused."""
        self.dense, self.lexical, self.encoder = dense, lexical, dense.encoder
        self.weight, self.depth = weight, depth
        how = "by rank" if self.weight is None else f"{self.weight:.0%} dense"
        self.label = f"Dense and BM25, fused {how}"

    def find(self, queries: Sequence[str], vectors: Vectors | None, k: int) -> list[list[Hit]]:
        assert vectors is not None
        names, depth = _named(queries), max(k, self.depth)
        runs = [
            self.dense.searcher.index.run(list(names), vectors, depth),
            self.lexical.bm25.search(names, depth),
        ]
        fused, parts = self._fused(runs)
        return [
            self._hits(text, fused.cut(k)[name], [dict(zip(*part[name])) for part in parts])
            for name, text in names.items()
        ]

    def _fused(self, runs: Sequence[Run]) -> tuple[Run, list[Run]]:
        """The fusion, and what each of the runs adds to it."""
        if self.weight is None:
            return reciprocal_rank(runs), [reciprocal_rank([run]) for run in runs]
        weights = (self.weight, 1 - self.weight)
        # over the same candidates, so that scores are made comparable in the same way
        return weighted(runs, weights), [
            weighted(runs, alone) for alone in ((weights[0], 0), (0, weights[1]))
        ]

    def _hits(self, query: str, ranking: Ranking, parts: Sequence[Mapping[str, float]]) -> list[Hit]:
        passages = self.lexical.index.passages
        places = passages.numbers_of(ranking.ids).tolist()
        terms = self.lexical.bm25.shares(query, places)
        hits = []
        for row, (place, name, score) in enumerate(zip(places, ranking.ids, ranking.scores.tolist())):
            dense, lexical = (float(part.get(name, 0.0)) for part in parts)
            hits.append(Hit(passages[place], score, Explanation(dense, lexical, terms[row][:TERMS])))
        return hits


def _named(queries: Sequence[str]) -> dict[str, str]:
    return {str(row): text for row, text in enumerate(queries)}
