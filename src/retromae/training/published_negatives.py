"""Hard negatives that somebody has published: a file with what several retrievers found for the queries, by ids.

A line for each query, plain or gzip, as MS MARCO's `msmarco-hard-negatives.jsonl.gz` has them:

    {"qid": "3", "pos": [{"pid": "17", "ce-score": 9.1}], "neg": {"bm25": [{"pid": "5", "ce-score": 2.4}, …], …}}

`ce-score`, a cross-encoder's, may be missing, and an id may stand alone. Of each retriever the candidates are taken in
their order; margins are below the query's lowest-scored answer, as in BEIR's script.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retromae.core.errors import UserError
from retromae.text.candidates import Candidates
from retromae.text.layouts import need_file, numbered_lines
from retromae.text.pairs import Lists, Pairs
from retromae.training.negatives import MineConfig, check_rules, limits

_ENDINGS = (".jsonl", ".jsonl.gz")
_AT_ONCE = 4096  # queries whose ids are looked up together
Entry = tuple[str, float]  # passage, score; NaN where there is none


class _Line(NamedTuple):
    """Of one query."""

    where: str
    query: str
    answers: list[Entry]
    systems: list[list[Entry]]
    """The candidates of every retriever."""


def is_published(name: str) -> bool:
    """Does the name say a file of negatives, and no retriever that would find some?"""
    return name.endswith(_ENDINGS)


def read_published(path: str | Path, pairs: Pairs, config: MineConfig) -> Candidates:
    """What may be trained on as wrong. Queries that the file lacks have no candidates; others of it are passed over."""
    check_rules(config)
    path = need_file(Path(path).parent, Path(path).name)
    blank = (np.empty(0, np.int32), np.empty(0, np.float32))
    rows = [blank] * len(pairs)
    dropped = {"known answers": 0, "absolute margin": 0, "relative margin": 0}
    unknown = 0
    for lines in _batches(path):
        queries = pairs.queries.numbers_of([line.query for line in lines])
        unknown += int((queries < 0).sum())
        chosen = {
            query: _chosen(line, config, dropped)
            for query, line in zip(queries.tolist(), lines)
            if query >= 0
        }
        members = pairs.passages.numbers_of([name for kept in chosen.values() for name in kept])
        ends = np.cumsum([len(kept) for kept in chosen.values()])
        for (query, kept), places in zip(chosen.items(), np.split(members, ends[:-1])):
            if (places < 0).any():
                raise UserError(
                    f"{path} names the passage {list(kept)[int(np.argmin(places))]!r}, which is not in the data "
                    f"{pairs.source}; take the negatives of the same corpus."
                )
            wrong = ~np.isin(places, pairs.positives[query])
            dropped["known answers"] += int((~wrong).sum())
            rows[query] = (places[wrong], np.nan_to_num(np.fromiter(kept.values(), np.float32))[wrong])
    lists = Lists.from_lists([places for places, _ in rows])
    if len(pairs) and not len(lists.members):
        raise UserError(
            f"{path} has no negatives for the queries of {pairs.source}, split {pairs.split!r}: {unknown:,} of its "
            "queries are unknown there; take the file of the same queries, or a smaller margin."
        )
    facts = {
        **{"source": str(path), **vars(config), "queries": len(pairs), "candidates": len(lists.members)},
        "queries without candidates": int((lists.lengths == 0).sum()),
        "unknown_queries": unknown,
        "dropped": dropped,
    }
    return Candidates(lists, np.concatenate([scores for _, scores in [blank, *rows]]), facts)


def _batches(path: Path) -> Iterator[list[_Line]]:
    """Some thousand lines at a time."""
    batch = []
    for number, line in numbered_lines(path):
        if line.strip():
            batch.append(_parsed(line, f"{path}:{number}"))
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _parsed(line: str, where: str) -> _Line:
    try:
        row = json.loads(line)
        return _Line(
            where, str(row["qid"]), _entries(row["pos"]), [_entries(found) for found in row["neg"].values()]
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise UserError(
            f"{where}: expected a query's published negatives, "
            '{"qid": …, "pos": [{"pid": …, "ce-score": …}], "neg": {"RETRIEVER": [likewise]}}.'
        ) from None


def _entries(items: Any) -> list[Entry]:
    if not isinstance(items, list):
        raise TypeError
    return [_entry(item) for item in items]


def _entry(item: Any) -> Entry:
    if isinstance(item, Mapping):
        return str(item["pid"]), float(item.get("ce-score", "nan"))
    if not isinstance(item, str | int):
        raise TypeError
    return str(item), float("nan")


def _chosen(line: _Line, config: MineConfig, dropped: dict[str, int]) -> dict[str, float]:
    """Passages with their scores. `dropped` is counted up."""
    right = {passage for passage, _ in line.answers}
    scores = [score for _, score in line.answers]
    lowest = min(scores) if scores and not any(map(math.isnan, scores)) else math.nan
    most = limits(lowest, config)
    margin = config.absolute_margin is not None or config.relative_margin is not None
    kept: dict[str, float] = {}
    for entries in line.systems:
        room = config.per_system or len(entries)
        for passage, score in entries[config.skip : config.skip + config.depth]:
            if not room:
                break
            if passage in right or passage in kept:
                continue
            if margin and (math.isnan(score) or not most):
                raise UserError(
                    f"{line.where}: a margin needs the ce-score of every passage, and one is missing; "
                    "leave the margin out."
                )
            over = next((name for name, limit in most.items() if score > limit), None)
            if over is not None:
                dropped[over] += 1
                continue
            kept[passage] = score
            room -= 1
    return kept
