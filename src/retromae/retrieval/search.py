"""Text queries to passages: an index and the encoder that made it, opened together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from retromae.core.errors import UserError
from retromae.core.ranking import Run
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.index import VectorIndex
from retromae.retrieval.vectors import Explanation, explain
from retromae.text.store import Passage

_QUERIES = 256  # encoded at once: a query's lexical half is as wide as the vocabulary


class Hit(NamedTuple):
    """One result. `why` holds the dense and the lexical part of the score, and the terms that matched."""

    passage: Passage
    score: float
    why: Explanation


class Searcher:
    """Search by text. Open one with `open`, or give it an index and its encoder."""

    def __init__(self, index: VectorIndex, encoder: Encoder) -> None:
        if encoder.fingerprint != index.fingerprint:
            raise UserError(
                f"the index {index.folder} was made by another model, or with other prompts, than "
                f"{encoder.source or 'this encoder'}; search with its own ({index.source or 'unknown'}), or encode "
                "and index again."
            )
        self.index = index
        self.encoder = encoder

    @classmethod
    def open(
        cls,
        folder: str | Path,
        model: str | Path | None = None,
        *,
        device: str | None = None,
        **settings: int,
    ) -> Self:
        """Open an index with the encoder that it names, as it was set; `model` says where that lies now.

        `settings` are the index' search parameters: effort, probes, rescore.
        """
        index = VectorIndex(folder, **settings)
        source = model or index.source
        if not source:
            raise UserError(f"the index {folder} does not name its model; say which it is.")
        return cls(index, Encoder.open(source, device=device, **index.settings))

    def search(self, query: str, k: int = 10, *, depth: int | None = None, terms: int = 10) -> list[Hit]:
        """The best k passages for one query, with up to `terms` matching terms each.

        `depth` is the number of candidates of each half that are scored (None: all documents), for an index
        with a lexical half.
        """
        vectors = self.encoder.encode_queries([query])
        found = self.index.search(vectors, k, depth=depth)
        places = [place for place in found.places[0].tolist() if place >= 0]
        if not places:
            return []
        documents = self.index.document_vectors(places)
        return [
            Hit(
                self.index.passages[place],
                float(found.scores[0, row]),
                explain(vectors, documents.rows(slice(row, row + 1)), self.encoder.term, terms),
            )
            for row, place in enumerate(places)
        ]

    def run(self, queries: Mapping[str, str], k: int = 100, *, depth: int | None = None) -> Run:
        """The best k documents of each query (id → text): what evaluation takes."""
        for query, text in queries.items():
            if not text.strip():
                raise UserError(f"query {query!r} is empty; leave it out or give it a text.")
        names: Sequence[str] = list(queries)
        runs = []
        for start in range(0, len(names), _QUERIES):
            part = names[start : start + _QUERIES]
            vectors = self.encoder.encode_queries([queries[name] for name in part])
            runs.append(self.index.run(part, vectors, k, depth=depth))
        return runs[0] if len(runs) == 1 else _joined(runs, self.index.passages.ids)


def _joined(runs: Sequence[Run], ids: Sequence[str]) -> Run:
    """Runs of different queries as one."""
    places = {document: place for place, document in enumerate(ids)}
    rankings = [(query, run[query]) for run in runs for query in run]
    return Run(
        [query for query, _ in rankings],
        [len(ranking.ids) for _, ranking in rankings],
        [places[document] for _, ranking in rankings for document in ranking.ids],
        [score for _, ranking in rankings for score in ranking.scores.tolist()],
        ids,
    )
