"""One record of a file of training examples → a query, the passages that answer it, and those that do not.

| shape | fields |
|---|---|
| Tevatron | `query_id`, `query`, `positive_passages`, `negative_passages` (each `docid`, `title`, `text`) |
| FlagEmbedding | `query`, `pos`, `neg`, perhaps `pos_scores`, `neg_scores`, `prompt` |
| sentence-transformers | anchor, positive, negative, negative_1 … under their usual names |

The last two are one shape: any field of passages may hold a text or a list of them. `prompt` is put before the
query, as FlagEmbedding does with it. A `label` or `score` is taken for teacher scores where it is a list with one
number for each passage, the positives first; a single number for a pair of texts is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from retromae.core.errors import UserError
from retromae.text.layouts import refuse_surrogates
from retromae.text.store import Passage

_QUERIES = ("anchor", "query", "question", "sentence1")
_POSITIVES = ("positive", "pos", "answer", "passage", "document", "sentence2", "entailment")
_NEGATIVE = re.compile(r"(hard_)?neg(ative)?s?(_?\d+)?|contradiction")
_LABELS = ("label", "labels", "score", "scores", "similarity", "similarity_score", "gold_label")
_IDS = ("query_id", "qid")
_DOCUMENT_IDS = ("docid", "doc_id", "pid", "_id", "id")
_READ_ELSEWHERE = {*_IDS, "pos_scores", "neg_scores", "prompt"}
_SAYS_NOTHING = {"type", "split", "id", "_id", "idx", "answers"}  # left unread without a word
_TEVATRON = {"query_id", "query", "positive_passages", "negative_passages"}


class Example(NamedTuple):
    """A query with its passages. Ids are "" where the record has none."""

    where: str
    query: Passage
    positives: list[Passage]
    negatives: list[Passage]
    scores: Sequence[float] | None
    """Of the positives, then of the negatives; NaN where a passage has none."""


class Columns(NamedTuple):
    """Which fields of a record mean what."""

    query: str | None
    positive: str | None
    negatives: tuple[str, ...]
    label: str | None
    unread: frozenset[str]


def example_of(record: Mapping[str, Any], where: str, unread: set[str]) -> Example:
    """Read one record; `where` is its file and line for refusals. Fields that mean nothing go to `unread`."""
    if "positive_passages" in record:
        unread.update(record.keys() - _TEVATRON - _SAYS_NOTHING)
        return _tevatron(record, where)
    columns = _columns(tuple(record))
    unread.update(columns.unread)
    return _named(record, columns, where)


@lru_cache(maxsize=256)
def _columns(names: tuple[str, ...]) -> Columns:
    query = next((name for name in _QUERIES if name in names), None)
    positive = next((name for name in _POSITIVES if name in names), None)
    label = next((name for name in _LABELS if name in names), None)
    negatives = tuple(name for name in names if _NEGATIVE.fullmatch(name))
    read = {query, positive, label, *negatives, *_READ_ELSEWHERE, *_SAYS_NOTHING}
    return Columns(query, positive, negatives, label, frozenset(names) - read)


def _named(record: Mapping[str, Any], columns: Columns, where: str) -> Example:
    if columns.query is None or columns.positive is None:
        missing, names = ("query", _QUERIES) if columns.query is None else ("positive passage", _POSITIVES)
        raise UserError(
            f"{where}: there is no field for the {missing} (there: {', '.join(map(str, record)) or 'none'}); "
            f"call it one of {', '.join(names)}."
        )
    query = _text(record[columns.query], columns.query, where)
    if record.get("prompt"):
        query = _text(record["prompt"], "prompt", where) + query
    positives = _texts(record[columns.positive], columns.positive, where)
    negatives = [text for name in columns.negatives for text in _negatives(record[name], name, where)]
    scores: Sequence[float] | None
    if columns.label is not None and record[columns.label] is not None:
        single = isinstance(record[columns.positive], str)
        scores = _label(record[columns.label], columns.label, 1 + len(negatives), single, where)
    else:
        scores = _scores(record, len(positives), len(negatives), where)
    if scores is not None:
        there = [text is not None for text in (*positives, *negatives)]
        scores = [score for score, known in zip(scores, there, strict=True) if known]
    return Example(
        where,
        _query(record, query, where),
        [Passage("", "", text) for text in positives],
        [Passage("", "", text) for text in negatives if text is not None],
        scores,
    )


def _query(record: Mapping[str, Any], text: str, where: str) -> Passage:
    identifier = _first(record, _IDS)
    refuse_surrogates(identifier, where, "query id")
    return Passage(identifier, "", text)


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: `{name}` is {type(value).__name__}, not text; write it as text.")
    if not value.strip():
        raise UserError(f"{where}: `{name}` is empty; fill it or leave the line out.")
    refuse_surrogates(value, where, "text")
    return value


def _texts(value: Any, name: str, where: str) -> list[str]:
    if value is None:
        return []
    listed = value if isinstance(value, list) else [value]
    return [_text(text, name, where) for text in listed]


def _negatives(value: Any, name: str, where: str) -> Sequence[str | None]:
    """A single negative that is empty is none: tables have the same columns in every row."""
    if value is None or value == "":
        return [None]
    return _texts(value, name, where)


def _label(value: Any, name: str, count: int, single: bool, where: str) -> Sequence[float]:
    """Teacher scores of one positive and its negatives; any other label is none that pairs can have."""
    if not single or not isinstance(value, list):
        raise UserError(
            f"{where}: `{name}` grades texts, but training takes pairs that belong together: keep those, move the "
            "others to `negative`, and drop the field, or let it list teacher scores of one positive and its "
            "negatives, in this order."
        )
    return _numbers(value, count, name, where)


def _scores(record: Mapping[str, Any], positives: int, negatives: int, where: str) -> Sequence[float] | None:
    """Teacher scores of the positives and then of the negatives, or None where the record has none."""
    parts = (("pos_scores", positives), ("neg_scores", negatives))
    if not any(record.get(name) for name, _ in parts):
        return None
    scores: list[float] = []
    for name, count in parts:
        given = record.get(name)
        scores += _numbers(given, count, name, where) if given else [math.nan] * count
    return scores


def _numbers(values: Any, count: int, name: str, where: str) -> list[float]:
    if not isinstance(values, list) or len(values) != count:
        found = f"{len(values)} numbers" if isinstance(values, list) else type(values).__name__
        raise UserError(f"{where}: `{name}` must be a list of {count} numbers, one a passage; it is {found}.")
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise UserError(f"{where}: `{name}` holds {value!r}; scores must be finite numbers.")
    return [float(value) for value in values]


def _tevatron(record: Mapping[str, Any], where: str) -> Example:
    if "query" not in record:
        raise UserError(f"{where}: there is no field `query`; a record with `positive_passages` needs one.")
    return Example(
        where,
        _query(record, _text(record["query"], "query", where), where),
        _passages(record["positive_passages"], "positive_passages", where),
        _passages(record.get("negative_passages"), "negative_passages", where),
        None,
    )


def _passages(values: Any, name: str, where: str) -> list[Passage]:
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        raise UserError(f"{where}: `{name}` must be a list of objects with `docid`, `title` and `text`.")
    return [_passage(value, name, where) for value in values]


def _passage(value: Mapping[str, Any], name: str, where: str) -> Passage:
    title, text = value.get("title"), value.get("text")
    if not isinstance(text, str) or not isinstance(title, str | None):
        raise UserError(f"{where}: a passage of `{name}` has no `text`, or a title that is not text.")
    if not text.strip() and not (title or "").strip():
        raise UserError(f"{where}: a passage of `{name}` is empty; fill it or leave it out.")
    passage = Passage(_first(value, _DOCUMENT_IDS), title or "", text)
    refuse_surrogates("".join(passage), where, "passage")
    return passage


def _first(record: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of these fields that has a value, as text."""
    return next((str(record[name]) for name in names if record.get(name) not in (None, "")), "")
