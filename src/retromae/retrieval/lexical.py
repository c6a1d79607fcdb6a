"""BM25: the baseline of every evaluation, and a source of hard negatives.

Scores come from bm25s (the Lucene variant, k1 1.5, b 0.75) over Snowball stems without stop words, of the
title and the text together. A document that shares no word with the query is not a result.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer

from retromae.core.errors import UserError
from retromae.core.files import replacing_folder, restore, write_json
from retromae.core.ranking import Run, id_ranks, top_k
from retromae.text.collections import full_text
from retromae.text.sources import Document
from retromae.text.store import Passage

# Snowball languages for which bm25s brings a list of stop words; the others keep all their words.
_STOP_WORDS = frozenset(
    {"danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese"}
)
_STOP_WORDS |= {"russian", "spanish", "swedish", "turkish"}
_SETTINGS = "lexical.json"
WORD = re.compile(r"\b\w\w+\b")  # what is taken for a word


class BM25:
    """An inverted index with document ids. Make one with `build` or `load`."""

    def __init__(self, index: bm25s.BM25, ids: list[str], language: str) -> None:
        self.ids = ids
        self.language = language
        self._index = index
        self._ranks = id_ranks(ids)

    @classmethod
    def build(
        cls,
        documents: Iterable[Document | Passage],
        *,
        language: str = "english",
        k1: float = 1.5,
        b: float = 0.75,
    ) -> BM25:
        """Index documents in one pass; `language` is a Snowball name (english, german, …), or "none".

        Words are runs of two or more word characters, lower-cased: scripts that do not put spaces between
        words need to be segmented before. Holds the token ids of the whole corpus meanwhile (8 bytes a word).
        """
        ids: list[str] = []

        def texts() -> Iterator[str]:
            for document in documents:
                ids.append(document.id)
                yield full_text(document)

        words = _words(texts(), language, as_ids=True)
        if not words.vocab:
            raise UserError("the corpus holds no word to index; is it empty, or its text in another field?")
        if len(set(ids)) < len(ids):
            raise UserError("the corpus holds a document id twice; ids must be unique.")
        index = bm25s.BM25(k1=k1, b=b, method="lucene")
        index.index(words, show_progress=False)
        return cls(index, ids, language)

    def save(self, folder: str | Path) -> None:
        """Write the index; the folder appears whole or not at all."""
        with replacing_folder(folder) as temporary:
            self._index.save(temporary, show_progress=False)
            write_json(temporary / _SETTINGS, {"language": self.language, "ids": self.ids})

    @classmethod
    def load(cls, folder: str | Path) -> BM25:
        """Open a saved index; its postings are memory-mapped."""
        folder = Path(folder)
        restore(folder)
        try:
            settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
            index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
            ids, language = settings["ids"], settings["language"]
            whole = index.scores["num_docs"] == len(ids)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(
                f"{folder} is not a BM25 index, or a damaged one ({error}); build it again."
            ) from None
        if not whole:
            raise UserError(f"the BM25 index in {folder} does not fit its list of ids; build it again.")
        return cls(index, ids, language)

    def search(self, queries: Mapping[str, str], k: int = 100) -> Run:
        """The best k documents of each query (id → text); ties are broken by document id."""
        if k < 1:
            raise UserError(f"k must be at least 1, got {k}.")
        for query, text in queries.items():
            if not text.strip():
                raise UserError(f"query {query!r} is empty; leave it out or give it a text.")
        places = np.full((len(queries), k), -1, dtype=np.int32)
        scores = np.zeros((len(queries), k), dtype=np.float32)
        for row, words in enumerate(_words(queries.values(), self.language)):
            found, values = self._best(words, k)
            places[row, : len(found)], scores[row, : len(found)] = found, values
        return Run.from_top_k(list(queries), places, scores, self.ids)

    def shares(self, query: str, places: Sequence[int]) -> list[list[tuple[str, float]]]:
        """For each document (by its place) the query's words that it has, with their part of the score, the largest
        first."""
        spelt: dict[str, str] = {}  # stem → the first word of the query that has it
        for word in WORD.findall(query.lower()):
            if (known := stem(word, self.language)) is not None:
                spelt.setdefault(known, word)
        found: list[list[tuple[str, float]]] = [[] for _ in places]
        for known, times in Counter(_words([query], self.language)[0]).items():
            ids = self._index.get_tokens_ids([known])
            if ids and places:
                values = self._index.get_scores_from_ids(ids)[list(places)] * times
                for row in values.nonzero()[0].tolist():
                    found[row].append((spelt.get(known, known), float(values[row])))
        return [sorted(terms, key=lambda term: (-term[1], term[0])) for terms in found]

    def _best(self, words: list[str], k: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        scores = self._index.get_scores_from_ids(self._index.get_tokens_ids(words))  # (documents,)
        hits = np.flatnonzero(scores)
        best, values = top_k(scores[None, hits], self._ranks[hits], k)
        return hits[best[0]], values[0]


@lru_cache(maxsize=1 << 16)
def stem(word: str, language: str = "english") -> str | None:
    """What BM25 takes a word for; None for a stop word."""
    found = _words([word], language)[0]
    return str(found[0]) if found else None


def _words(texts: Iterable[str], language: str, *, as_ids: bool = False) -> Any:
    """Each text's stems, in order: strings, or bm25s's (ids, vocabulary) to index."""
    if language != "none" and language not in Stemmer.algorithms():
        known = ", ".join(Stemmer.algorithms())
        raise UserError(f"language {language!r} is not known; choose one of {known}, or none.")
    return bm25s.tokenize(
        texts,
        stopwords=language if language in _STOP_WORDS else [],
        stemmer=None if language == "none" else Stemmer.Stemmer(language),
        return_ids=as_ids,
        show_progress=False,
    )
