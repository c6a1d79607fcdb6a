"""Queries that a text answers itself: training pairs and judgements for someone who has no labels.

    title      a document's title asks for its passages, from which the title has been taken away
    sentence   a sentence that was cut out of a passage asks for what is left of it (the inverse cloze task)
    span       a sentence that was cut out asks for the passages before and behind its own, too (training only)

What asks is taken out of what answers, everywhere in the corpus that is searched, so that a word-for-word match with
itself cannot be learnt or rewarded. A title that several documents share asks for nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from retromae.core.draws import key
from retromae.text.passages import Passage, PassageRules, split_document
from retromae.text.sources import Document

Kind = Literal["title", "sentence", "span"]
KINDS: tuple[Kind, ...] = ("title", "sentence", "span")
_QUERY_WORDS = 4, 48  # of a sentence that is cut out
_REST_WORDS = 12  # that must be left of its passage
_MANY_GROUPS = 20  # folders that are enough to hold whole ones out


@dataclass(frozen=True, slots=True)
class Inner:
    """A passage as it is searched, the whole it was made of, and the queries that it answers."""

    id: str
    document: str
    title: str  # empty where the title asks
    text: str  # without the sentence that asks
    whole: Passage  # for the index that people search: nothing is taken away there
    asks: tuple[tuple[Kind, str], ...]
    beside: tuple[str, ...] = ()  # the passages before and behind it in its document


@dataclass(frozen=True)
class Titles:
    """What a first look over the documents shows: which titles are one document's own, and who belongs together."""

    shared: frozenset[bytes]
    documents: int
    folders: int

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Titles:
        counts: Counter[bytes] = Counter()
        folders: set[str] = set()
        number = 0
        for document in documents:
            number += 1
            counts[_mark(document.title)] += 1
            folders.add(_folder(document.id))
        return cls(frozenset(mark for mark, n in counts.items() if n > 1), number, len(folders))

    def asks(self, title: str) -> bool:
        return len(title.strip()) >= 4 and _mark(title) not in self.shared

    def group(self, document: str) -> str:
        """What is held out or trained on as a whole: a folder where there are many, else a document."""
        return _folder(document) if self.folders >= _MANY_GROUPS else document


def _folder(document: str) -> str:
    return document.rpartition("/")[0] or document


def _mark(title: str) -> bytes:
    return hashlib.blake2b(" ".join(title.lower().split()).encode(), digest_size=8).digest()


def inner_passages(
    documents: Iterable[Document],
    titles: Titles,
    tokenizer: Any,
    rules: PassageRules,
    *,
    kinds: Collection[str] = ("title", "sentence"),
    seed: int = 0,
) -> Iterator[Inner]:
    """The passages of all documents with the queries that they answer; repeated passages come once.

    A document whose id was there before is told apart by what is put behind it: `~2`."""
    seen: set[bytes] = set()
    ids: Counter[bytes] = Counter()
    for document in documents:
        ids[_mark(document.id)] += 1
        if (times := ids[_mark(document.id)]) > 1:
            document = replace(document, id=f"{document.id}~{times}")
        passages = []
        for passage in split_document(document, tokenizer, rules):
            mark = _mark(passage.text)
            if mark not in seen:
                seen.add(mark)
                passages.append(passage)
        asks = "title" in kinds and titles.asks(document.title)
        for place, passage in enumerate(passages):
            made: list[tuple[Kind, str]] = [("title", document.title.strip())] if asks else []
            text = passage.text
            if "sentence" in kinds and (cut := _cut_out(passage, seed)):
                sentence, text = cut
                made.append(("sentence", sentence))
            near = [passages[at].id for at in (place - 1, place + 1) if 0 <= at < len(passages)]
            yield Inner(
                passage.id,
                document.id,
                "" if asks else document.title,
                text,
                passage,
                tuple(made),
                tuple(near) if "span" in kinds else (),
            )


def _cut_out(passage: Passage, seed: int) -> tuple[str, str] | None:
    """One sentence of the passage and what is left, or None where there is none that will do."""
    bounds = [*passage.sentences, len(passage.text)]
    able = [
        (a, b)
        for a, b in pairwise(bounds)
        if _QUERY_WORDS[0] <= words_in(passage.text[a:b]) <= _QUERY_WORDS[1]
        and words_in(passage.text[:a]) + words_in(passage.text[b:]) >= _REST_WORDS
    ]
    if not able:
        return None
    a, b = able[key(seed, int.from_bytes(_mark(passage.id))) % len(able)]
    rest = f"{passage.text[:a].rstrip()} {passage.text[b:].lstrip()}".strip()
    return " ".join(passage.text[a:b].split()), rest


def words_in(text: str) -> int:
    """Words, or a guess for scripts that put no spaces between them."""
    return max(len(text.split()), len(text.strip()) // 12)
