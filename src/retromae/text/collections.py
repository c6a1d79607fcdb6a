"""Retrieval collections on disk: a corpus, the queries of one split, and which documents answer them.

Three layouts are read, each as its publisher ships it (`.gz` beside any of them works too):

- **BEIR**: `corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`;
- **MS MARCO**: `collection.tsv`, `queries.SPLIT.tsv`, `qrels.SPLIT.tsv`;
- **DPR** (Natural Questions): `psgs_w100.tsv`, `nq-SPLIT.qa.csv` with answer strings and no judgements.

The corpus is never held: it is read anew, line by line, each time it is iterated. Checking it costs about
40 bytes a document for a moment (a hash of each id, sorted).
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from retromae.core.errors import UserError
from retromae.text.layouts import Qrels, layout
from retromae.text.sources import Document
from retromae.text.store import Passage, joined

OnError = Literal["raise", "warn"]


def full_text(document: Document | Passage) -> str:
    """What encoders and BM25 read: the title and the text, a space between them."""
    return joined(document.title, document.text)


@dataclass(frozen=True)
class Collection:
    """One split of a retrieval collection. Only queries that the split judges are kept.

    `len(collection)` is the number of documents; `unknown` how many judged documents the corpus lacks.
    """

    name: str
    split: str
    queries: dict[str, str]
    qrels: Qrels
    answers: dict[str, list[str]]
    unknown: int
    documents: int
    _read: Callable[[], Iterator[Document]] = field(repr=False)

    @classmethod
    def open(cls, folder: str | Path, split: str = "test", *, on_error: OnError = "raise") -> Collection:
        """Open and check a folder in one of the layouts above.

        Documents without an id and duplicate ids are always refused. `on_error` governs what can be lived
        with: judgements of documents that are not in the corpus, and judged queries without text. "raise"
        refuses them; "warn" warns with their number and goes on. Such judgements stay, and count as relevant
        documents that nobody can find; such queries are left out of `queries`, stay in `qrels`, and so count
        as zero.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}; name the folder that holds the collection.")
        read, texts, qrels, answers = layout(folder)(folder, split)
        kept = qrels or texts
        queries = {query: texts[query] for query in kept if texts.get(query, "").strip()}
        if len(queries) < len(kept):
            lost = next(query for query in kept if query not in queries)
            _complain(
                f"{len(kept) - len(queries)} queries of split {split!r} in {folder} have no text "
                f"(the first is {lost!r}); give them one or remove their judgements.",
                on_error,
            )
        if not queries:
            raise UserError(f"split {split!r} in {folder} has no query.")
        documents, unknown = _check(read, qrels, folder, on_error)
        answers = {query: answers[query] for query in queries if query in answers}
        return cls(folder.name, split, queries, qrels, answers, unknown, documents, read)

    def __len__(self) -> int:
        return self.documents

    def corpus(self) -> Iterator[Document]:
        """The documents, one at a time, in the order of the file."""
        return self._read()

    def pick(self, ids: Container[str]) -> dict[str, Document]:
        """Some documents by id, in one pass over the corpus: for showing results and for answer strings."""
        return {document.id: document for document in self._read() if document.id in ids}


def _complain(message: str, on_error: OnError) -> None:
    if on_error == "raise":
        raise UserError(message)
    warnings.warn(message, stacklevel=4)


def _check(
    read: Callable[[], Iterator[Document]], qrels: Qrels, folder: Path, on_error: OnError
) -> tuple[int, int]:
    """One pass over the corpus: (documents, judged documents that it lacks)."""
    judged = {document for grades in qrels.values() for document in grades}
    absent = set(judged)
    hashes = array("q")
    for document in read():
        hashes.append(hash(document.id))
        absent.discard(document.id)
    if not hashes:
        raise UserError(f"the corpus in {folder} holds no document.")
    values, counts = np.unique(np.frombuffer(hashes, dtype=np.int64), return_counts=True)
    if (counts > 1).any():
        _refuse_duplicates(read, set(values[counts > 1].tolist()), folder)
    if absent:
        _complain(
            f"{len(absent)} of {len(judged)} judged documents are not in the corpus of {folder} "
            f"(one is {min(absent)!r}); the judgements may belong to another version of it.",
            on_error,
        )
    return len(hashes), len(absent)


def _refuse_duplicates(read: Callable[[], Iterator[Document]], suspects: set[int], folder: Path) -> None:
    """Ids whose hashes met: equal ids are refused, a mere collision is not."""
    seen: set[str] = set()
    for document in read():
        if hash(document.id) in suspects:
            if document.id in seen:
                raise UserError(
                    f"the corpus in {folder} holds the id {document.id!r} twice; ids must be unique."
                )
            seen.add(document.id)
