"""The work of one worker process: a chunk of items → token rows in Arrow.

Imports stay light (tokenizers, numpy, pyarrow): a worker starts fast and needs little memory.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process

import numpy as np
import pyarrow as pa

from retromae.text.passages import Ids, PassageRules, PassageTokens, passages_of, sentence_tokens, tokenise
from retromae.text.problems import Problem
from retromae.text.seen import Keys, duplicate_key, stable_key
from retromae.text.sentences import splitter_named
from retromae.text.sources import Document, Item, ReadOptions, read_item
from retromae.text.vocabulary import bare

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


class _Columns:
    """Rows in the making."""

    def __init__(self) -> None:
        self.token_ids: list[Ids] = []  # title and body apart: joined once for all rows
        self.lengths: list[int] = []
        self.sentence_starts: list[int] = []
        self.sentence_counts: list[int] = []
        self.others: list[tuple[int, str, str, int, int, int]] = []  # the columns from title_length on
        self.keys: list[int] = []

    def add(self, document: Document, title: Ids, passages: Sequence[PassageTokens]) -> None:
        key = stable_key(document.id)
        shift = len(title)
        before = [0] if shift else []
        for found in passages:
            passage = found.passage
            starts = [*before, *(start + shift for start in found.sentences)]
            self.token_ids += (title, found.ids)
            self.lengths.append(shift + len(found.ids))
            self.sentence_starts += starts
            self.sentence_counts.append(len(starts))
            self.others.append((shift, passage.id, passage.document, passage.start, passage.end, key))
            self.keys.append(duplicate_key(document.title if shift else "", passage.text))

    def batch(self) -> pa.RecordBatch:
        tokens = np.concatenate([np.empty(0, dtype=np.int32), *self.token_ids])
        lists = [
            _lists(tokens, self.lengths),
            _lists(np.array(self.sentence_starts, dtype=np.int32), self.sentence_counts),
        ]
        others = list(zip(*self.others, strict=True)) if self.others else [()] * 6
        plain = [pa.array(column, SCHEMA.types[number]) for number, column in enumerate(others, len(lists))]
        return pa.RecordBatch.from_arrays([*lists, *plain], schema=SCHEMA)


def _lists(values: Ids, lengths: Sequence[int]) -> pa.ListArray:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


class Encoder:
    """Turns items into rows; the same items give the same rows in any process."""

    def __init__(self, settings: EncodeSettings) -> None:
        from tokenizers import Tokenizer

        self.settings = settings
        self.tokenizer = bare(Tokenizer.from_file(settings.tokenizer_file))
        self.splitter = splitter_named(settings.splitter)

    def __call__(self, items: Iterable[Item]) -> Encoded:
        read = [read_item(item, self.settings.read) for item in items]
        documents = [item for item in read if isinstance(item, Document)]
        problems = [item for item in read if isinstance(item, Problem)]
        spans = [self.splitter(document.text) for document in documents]
        tokens = tokenise([document.text for document in documents], spans, self.tokenizer)
        titles = self._titles(documents)
        columns, rules, cut_off = _Columns(), self.settings.rules, 0
        for document, sentences, of_text in zip(documents, spans, tokens, strict=True):
            title = titles[document.title]
            limit = rules.max_tokens - len(title)
            passages = passages_of(document, of_text, sentence_tokens(of_text, sentences), rules, limit)
            columns.add(document, title, passages)
            cut_off += not rules.split and len(of_text) > limit
            if not passages:
                sentence = "the tokenizer finds no token in the text."
                problems.append(Problem("no_tokens", document.source, document.line, sentence))
        keys = np.array(columns.keys, dtype=np.uint64)
        return Encoded(columns.batch(), keys, len(documents), cut_off, problems)

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
