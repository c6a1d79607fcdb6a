"""What a pile of text is like, in one streaming pass: sizes, languages, duplicates, what repeats, what is not read.

    sources ── documents ──┬─ counted
                           ├─ hashes: exact duplicates, near copies
                           └─ samples (by hash, so that the order of the files changes nothing): lines, excerpts

Memory is bounded by the largest document and the samples; only 12 bytes are kept of every document. Long documents
are taken in pieces, so that one of a hundred megabytes is a corpus like any other.
"""

from __future__ import annotations

import hashlib
import re
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from retromae.core.draws import mix64
from retromae.text.hash_sample import HashSample
from retromae.text.language import LanguageShare, languages_of
from retromae.text.near_copies import NearCopies, NearCopySearch
from retromae.text.problems import Problem, Problems
from retromae.text.progress import progress_bar
from retromae.text.repeated_lines import RepeatedLines, RepeatedLineSearch
from retromae.text.seen import SeenKeys
from retromae.text.sentences import split_sentences
from retromae.text.sources import Document, Reader, ReadOptions, list_files, read_item
from retromae.text.word_hashes import Words, words_of

PIECE = 100_000
"""Characters of a document that are taken at a time."""
_AT_ONCE = 1 << 20  # characters that are counted at a time
_EXCERPTS = 1_000_000  # characters of the excerpts
_WINDOW = 5_000  # characters that are in one language
_TAG_NAMES = "a|b|i|p|br|div|span|table|td|th|tr|li|ul|ol|img|h[1-6]|script|style|font|em|strong"
_MARKUP = re.compile(rf"</?(?:{_TAG_NAMES})(?:\s[^<>]*)?/?>|&(?:nbsp|amp|lt|gt|quot|#\d+);", re.I)


class Excerpt(NamedTuple):
    """A document, or a piece of a long one."""

    id: str
    title: str
    text: str
    words: int


@dataclass(frozen=True)
class Lengths:
    """Words of a document: of the shortest, of the one in the middle of all, …"""

    shortest: int
    quarter: int
    median: int
    three_quarters: int
    most: int
    """95 of 100 documents are not longer."""
    longest: int


@dataclass(frozen=True)
class CorpusFacts:
    """Counts are of what was read; `share_read` says how much of the sources that is."""

    files: int
    documents: int
    characters: int
    words: int
    sentences: int
    """Counted in the excerpts, and taken to be as frequent elsewhere."""
    titled: int
    with_markup: int
    """Documents with HTML tags or entities in their text."""
    duplicates: int
    """Documents whose text was there before, word for word."""
    near_copies: NearCopies
    lengths: Lengths
    repeated: RepeatedLines
    languages: list[LanguageShare]
    skipped: dict[str, int]
    """Why things were not read → how many."""
    skipped_examples: dict[str, list[str]]
    share_read: float
    """Of the bytes; 1 where nobody knows how many there are (hub data sets)."""
    stopped: bool
    """Whether the time for reading ran out."""
    seconds: float


@dataclass(frozen=True)
class Survey:
    facts: CorpusFacts
    excerpts: list[Excerpt]
    """A random part of the text without its duplicates, at most about a million characters."""
    complete: bool
    """Whether the excerpts are all of it."""
    word_counts: npt.NDArray[np.uint32]
    """(documents,) in the order of reading."""


def survey(
    sources: Sequence[str],
    options: ReadOptions | None = None,
    *,
    seconds: float | None = None,
    progress: bool = False,
) -> Survey:
    """Read the sources once. With `seconds` the reading stops then, and the facts are those of the beginning.

    Without documents the facts are zeros; what was skipped, and why, is in them all the same.
    """
    options = options or ReadOptions()
    files = list_files(sources, options)
    total = sum(file.size for file in files)
    reader, counter = Reader(files, options), _Counter()
    began, share, stopped = time.monotonic(), 1.0, False
    with progress_bar("Looking at the text", total, progress) as bar:
        for document in _documents(reader, options, counter.problems):
            counter.add(document)
            bar.advance(1, reader.bytes_read)
            if seconds is not None and time.monotonic() - began > seconds:
                stopped = True
                share = min(1.0, reader.bytes_read / total) if total else 1.0
                break
    return counter.finish(len(files), share, stopped, time.monotonic() - began)


def _documents(reader: Reader, options: ReadOptions, problems: Problems) -> Iterator[Document]:
    for item in reader:
        document = read_item(item, options)
        if isinstance(document, Problem):
            problems.add(document)
        else:
            yield document


class _Counter:
    """Everything that is counted, batch by batch."""

    def __init__(self) -> None:
        self.problems = Problems()
        self._waiting: list[Document] = []
        self._characters_waiting = 0
        self._characters = self._titled = self._with_markup = self._new = 0
        self._words: list[npt.NDArray[np.uint32]] = []  # of each batch's documents
        self._seen = SeenKeys()
        self._near = NearCopySearch()
        self._lines = RepeatedLineSearch()
        self._excerpts: HashSample[Excerpt] = HashSample(_EXCERPTS)

    def add(self, document: Document) -> None:
        self._waiting.append(document)
        self._characters_waiting += len(document.text)
        if self._characters_waiting >= _AT_ONCE:
            self._take()

    def _take(self) -> None:
        """Count what is waiting."""
        documents, self._waiting, self._characters_waiting = self._waiting, [], 0
        pieces = [list(_pieces(document.text)) for document in documents]
        keys = np.array([_text_key(parts) for parts in pieces], dtype=np.uint64)
        new = self._seen.add(keys)
        self._new += int(new.sum())
        for document, parts, fresh, key in zip(documents, pieces, new.tolist(), keys.tolist(), strict=True):
            self._characters += len(document.text)
            self._titled += bool(document.title)
            self._with_markup += bool(_MARKUP.search(document.text))
            if fresh:
                self._lines.add(key, parts[0])
        counts = self._count_words(documents, pieces, new)
        self._words.append(np.array([sum(found) for found in counts], dtype=np.uint32))
        listed = zip(documents, pieces, counts, keys.tolist(), new.tolist(), strict=True)
        for document, parts, found, key, fresh in listed:
            if fresh:
                self._sample(document, parts, found, key)

    def _count_words(
        self, documents: list[Document], pieces: list[list[str]], new: npt.NDArray[np.bool_]
    ) -> list[list[int]]:
        """Words of every piece of every document; the first pieces of new documents are compared with each other."""
        flat = [(row, place, piece) for row, parts in enumerate(pieces) for place, piece in enumerate(parts)]
        counts: list[list[int]] = [[] for _ in documents]
        sizes = np.array([len(piece) for *_, piece in flat])
        for start, stop in _batches(sizes):
            part = flat[start:stop]
            words = words_of([piece for *_, piece in part])
            for (row, *_), count in zip(part, words.counts.tolist(), strict=True):
                counts[row].append(count)
            compared = np.array([place == 0 and bool(new[row]) for row, place, _ in part])
            ids = [documents[row].id for row, place, _ in part if place == 0 and new[row]]
            self._near.add(_only(words, compared), ids)
        return counts

    def _sample(self, document: Document, parts: list[str], counts: list[int], key: int) -> None:
        keys = [
            key,
            *(
                mix64(np.array([(key + place) % 2**64], dtype=np.uint64)).item()
                for place in range(1, len(parts))
            ),
        ]
        for piece_key, piece, count in zip(keys, parts, counts, strict=True):
            if count:
                self._excerpts.add(piece_key, len(piece), Excerpt(document.id, document.title, piece, count))

    def finish(self, files: int, share_read: float, stopped: bool, seconds: float) -> Survey:
        self._take()
        words = np.concatenate([np.empty(0, dtype=np.uint32), *self._words])
        excerpts = self._excerpts.items()
        facts = CorpusFacts(
            files=files,
            documents=len(words),
            characters=self._characters,
            words=int(words.sum(dtype=np.int64)),
            sentences=_sentences(excerpts, self._characters),
            titled=self._titled,
            with_markup=self._with_markup,
            duplicates=len(words) - self._new,
            near_copies=self._near.result(),
            lengths=_lengths(words),
            repeated=self._lines.result(),
            languages=languages_of(_windows(excerpts)),
            skipped=dict(sorted(self.problems.counts.items())),
            skipped_examples=self.problems.examples,
            share_read=share_read,
            stopped=stopped,
            seconds=seconds,
        )
        return Survey(facts, excerpts, self._excerpts.complete, words)


def _text_key(pieces: Sequence[str]) -> int:
    """The hash by which duplicates are known: composed characters (NFC), white space as single spaces.

    `seen.duplicate_key` says the same of short texts; here no list of all words of a long one is ever held.
    """
    digest, gap = hashlib.blake2b(digest_size=8), ""
    for piece in pieces:
        if body := " ".join(piece.split()):
            before = " " if gap and (gap.isspace() or piece[0].isspace()) else ""
            digest.update((before + unicodedata.normalize("NFC", body)).encode("utf-8", "replace"))
        gap = piece[-1:] or gap
    return int.from_bytes(digest.digest(), "little")


def _batches(sizes: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs [start, stop) of pieces that together are not much more than what is counted at a time."""
    numbers = np.cumsum(sizes) // _AT_ONCE
    bounds = np.flatnonzero(np.diff(numbers, prepend=-1))
    yield from pairwise([*bounds.tolist(), len(sizes)])


def _windows(excerpts: Sequence[Excerpt]) -> list[tuple[str, int]]:
    """Parts of the excerpts, each with its share of the words: a long one may be in several languages."""
    found = []
    for excerpt in excerpts:
        starts = range(0, len(excerpt.text), _WINDOW)
        found += [
            (excerpt.text[start : start + _WINDOW], excerpt.words // len(starts) or 1) for start in starts
        ]
    return found


def _only(words: Words, wanted: npt.NDArray[np.bool_]) -> Words:
    """The words of some of the texts."""
    return Words(words.hashes[np.repeat(wanted, words.counts)], words.counts[wanted])


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of at most `PIECE` characters, cut at white space where there is some."""
    start = 0
    while len(text) - start > PIECE:
        cut = max(text.rfind(mark, start + PIECE // 2, start + PIECE) for mark in " \n") + 1
        stop = cut if cut > start else start + PIECE
        yield text[start:stop]
        start = stop
    yield text[start:]


def _sentences(excerpts: Sequence[Excerpt], characters: int) -> int:
    """Sentences in so many characters of which these are a random part (for few documents: all)."""
    looked_at = sum(len(excerpt.text) for excerpt in excerpts)
    found = sum(len(split_sentences(excerpt.text)) for excerpt in excerpts)
    return round(found * characters / looked_at) if looked_at else 0


def _lengths(words: npt.NDArray[np.uint32]) -> Lengths:
    if not len(words):
        return Lengths(0, 0, 0, 0, 0, 0)
    shares = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
    return Lengths(*(int(value) for value in np.quantile(words, shares, method="lower")))
