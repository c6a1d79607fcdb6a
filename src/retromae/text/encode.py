"""The work of one worker process: a chunk of items → token rows in Arrow.

Imports stay light (tokenizers, numpy, pyarrow): a worker starts fast and needs little memory.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing import parent_process
from typing import Any

import numpy as np
import pyarrow as pa

from retromae.text.passages import Ids, PassageRules, passages_of, sentence_tokens, tokenise
from retromae.text.problems import Problem
from retromae.text.seen import Keys, duplicate_key, stable_key
from retromae.text.sentences import splitter_named
from retromae.text.sources import Document, Item, ReadOptions, read_item
from retromae.text.vocabulary import worker_tokenizer

SCHEMA = pa.schema(
    [
        ("token_ids", pa.list_(pa.int32())),  # title, then body; no special tokens
        ("sentence_starts", pa.list_(pa.int32())),  # in tokens; the title is a sentence of its own
        ("title_length", pa.int32()),  # leading tokens that are the title
        ("id", pa.string()),
        ("document", pa.string()),
        ("start", pa.int64()),  # characters [start, end) in the document's text
        ("end", pa.int64()),
        ("document_key", pa.uint64()),  # hash of `document`, for splits that keep documents whole
    ]
)


@dataclass(frozen=True)
class EncodeSettings:
    tokenizer_file: str
    rules: PassageRules
    with_title: bool
    splitter: str
    read: ReadOptions


@dataclass
class Encoded:
    """What a chunk of items gave."""

    rows: pa.RecordBatch
    keys: Keys
    """One hash per row, by which duplicates are known."""
    documents: int
    cut_off: int
    """Documents that lost their end because they are not to be split."""
    problems: list[Problem]


@dataclass
class _Columns:
    """Rows in the making: one entry per row in every list."""

    token_ids: list[Ids] = field(default_factory=list)
    sentence_starts: list[Ids] = field(default_factory=list)
    title_length: list[int] = field(default_factory=list)
    id: list[str] = field(default_factory=list)
    document: list[str] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    document_key: list[int] = field(default_factory=list)

    def batch(self) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays(
            [
                _lists(self.token_ids),
                _lists(self.sentence_starts),
                pa.array(self.title_length, pa.int32()),
                pa.array(self.id, pa.string()),
                pa.array(self.document, pa.string()),
                pa.array(self.start, pa.int64()),
                pa.array(self.end, pa.int64()),
                pa.array(self.document_key, pa.uint64()),
            ],
            schema=SCHEMA,
        )


def _lists(rows: Sequence[Ids]) -> pa.ListArray:
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = np.concatenate([np.empty(0, dtype=np.int32), *rows])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


class Encoder:
    """Turns items into rows; the same items give the same rows in any process."""

    def __init__(self, settings: EncodeSettings) -> None:
        self.settings = settings
        self.tokenizer = worker_tokenizer(settings.tokenizer_file)
        self.splitter = splitter_named(settings.splitter)

    def __call__(self, items: Iterable[Item]) -> Encoded:
        read = [read_item(item, self.settings.read) for item in items]
        documents = [item for item in read if isinstance(item, Document)]
        problems = [item for item in read if isinstance(item, Problem)]
        spans = [self.splitter(document.text) for document in documents]
        tokens = tokenise([document.text for document in documents], spans, self.tokenizer)
        titles = self._titles(documents)
        columns, cut_off = _Columns(), 0
        keys: list[int] = []
        for document, sentences, of_text in zip(documents, spans, tokens, strict=True):
            title = titles[document.title]
            before = len(columns.id)
            self._add(columns, keys, document, of_text, sentence_tokens(of_text, sentences), title)
            limit = self.settings.rules.max_tokens - len(title)
            cut_off += not self.settings.rules.split and len(of_text) > limit
            if len(columns.id) == before:
                sentence = "the tokenizer finds no token in the text."
                problems.append(Problem("no_tokens", document.source, document.line, sentence))
        return Encoded(columns.batch(), np.array(keys, dtype=np.uint64), len(documents), cut_off, problems)

    def _titles(self, documents: Iterable[Document]) -> dict[str, Ids]:
        """Tokens of every title; at most half of a passage, so that the text always has room."""
        unique = sorted({document.title for document in documents})
        if not self.settings.with_title:
            return dict.fromkeys(unique, np.empty(0, dtype=np.int32))
        encodings = self.tokenizer.encode_batch_fast(unique, add_special_tokens=False)
        longest = self.settings.rules.max_tokens // 2
        return {
            title: np.array(encoding.ids[:longest], dtype=np.int32)
            for title, encoding in zip(unique, encodings, strict=True)
        }

    def _add(
        self, columns: _Columns, keys: list[int], document: Document, tokens: Any, sentences: Any, title: Ids
    ) -> None:
        first = [0] if len(title) else []
        key = stable_key(document.id)
        limit = self.settings.rules.max_tokens - len(title)
        for passage, a, b in passages_of(document, tokens, sentences, self.settings.rules, limit):
            inside = sentences[(sentences > a) & (sentences < b)] - a
            starts = np.concatenate([[0], inside]) + len(title)
            columns.token_ids.append(np.concatenate([title, tokens.ids[a:b]]))
            columns.sentence_starts.append(np.concatenate([first, starts]).astype(np.int32))
            columns.title_length.append(len(title))
            columns.id.append(passage.id)
            columns.document.append(passage.document)
            columns.start.append(passage.start)
            columns.end.append(passage.end)
            columns.document_key.append(key)
            keys.append(duplicate_key(document.title if len(title) else "", passage.text))


_encoder: Encoder | None = None


def start_worker(settings: EncodeSettings) -> None:
    """Set a worker process up: one thread each, Ctrl-C left to the parent, and no life without it."""
    global _encoder  # noqa: PLW0603 - the one place where a worker keeps its state
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _encoder = Encoder(settings)


def _leave_with_parent() -> None:
    """A killed parent cannot tell its workers; without this they would wait for it for ever."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def encode_chunk(items: list[Item]) -> Encoded:
    assert _encoder is not None, "start_worker has not run"
    return _encoder(items)
