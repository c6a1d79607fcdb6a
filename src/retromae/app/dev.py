"""Measuring retrieval while a model is fine-tuned: real queries against a part of the real corpus.

A whole corpus takes too long to be encoded every few hundred steps. The part holds every passage that answers one of
the queries, the best that BM25 finds for each (so that it is not easy), and random ones. Its figures are higher than
those of the whole corpus; they are for choosing between checkpoints, not for reports.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from retromae.core.distributed import writes
from retromae.core.draws import Stream, order
from retromae.core.errors import UserError
from retromae.core.ranking import Run, id_ranks, top_k
from retromae.evaluation.metrics import evaluate_run, metric_name
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.lexical import BM25
from retromae.retrieval.vectors import Vectors
from retromae.text.pairs import Pairs

_FROM_BM25 = 20  # passages that BM25 finds for each query
_HELD_OUT = 0.05  # of the training queries, where the data has no part for this
_DEPTH = 100
_AT_ONCE = 64  # queries whose lexical halves are held as full rows
_METRICS = ("nDCG@10", "RR@10", "R@100")


@dataclass
class DevSet:
    """Queries, the passages that are searched, and who answers whom; called with a model, it measures it."""

    queries: list[str]
    passages: list[str]
    answers: list[list[int]]  # of every query, places among the passages
    metrics: tuple[str, ...]

    def __call__(self, model: SentenceTransformer) -> dict[str, float]:
        encoder = Encoder(model)
        passages = encoder.encode_passages(self.passages)
        ids = [f"p{place}" for place in range(len(self.passages))]
        ranks = id_ranks(ids)
        names = [f"q{row}" for row in range(len(self.queries))]
        places, values = [], []
        for start in range(0, len(names), _AT_ONCE):
            queries = encoder.encode_queries(self.queries[start : start + _AT_ONCE])
            best, scores = top_k(_scores(queries, passages), ranks, _DEPTH)
            places.append(best)
            values.append(scores)
        run = Run.from_top_k(names, np.concatenate(places), np.concatenate(values), ids)
        qrels = {name: {ids[place]: 1 for place in found} for name, found in zip(names, self.answers)}
        result = evaluate_run(qrels, run, self.metrics)
        return {name: metric.mean for name, metric in result.metrics.items()}


def _scores(queries: Vectors, passages: Vectors) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = queries.dense @ passages.dense.T
    if queries.lexical is not None and passages.lexical is not None:
        scores = scores + (passages.lexical @ queries.lexical.toarray().T).T
    return scores


def dev_set(
    source: str | Path,
    split: str,
    *,
    train: str,
    queries: int,
    passages: int,
    metric: str,
    cache: str | None = None,
    seed: int = 0,
) -> tuple[DevSet, NDArray[np.int32]]:
    """A dev set of at most so many queries and passages, and the training queries that it takes away.

    Where the data has no such split, some of the queries of `train` are held out.
    """
    metrics = tuple(dict.fromkeys((metric_name(metric), *_METRICS)))
    try:
        pairs, held_out = Pairs.open(source, split, cache=cache), False
    except UserError as error:
        if writes():
            warnings.warn(f"some training queries are held out to measure on, because {error}", stacklevel=2)
        pairs, held_out = Pairs.open(source, train, cache=cache), True
    most = max(1, round(_HELD_OUT * len(pairs))) if held_out else len(pairs)
    chosen = np.sort(order(len(pairs), seed, int(Stream.HOLDOUT))[: min(queries, most)]).astype(np.int32)
    taken = chosen if held_out else np.empty(0, dtype=np.int32)
    if not writes():  # the first process measures for all
        return DevSet([], [], [], metrics), taken
    texts = pairs.queries.texts(chosen)
    answers = [pairs.positives[query].tolist() for query in chosen.tolist()]
    wanted = {passage for found in answers for passage in found}
    wanted |= _from_bm25(pairs, texts, most=passages - len(wanted))
    rest = (passage for passage in order(len(pairs.passages), seed, int(Stream.PROBE)).tolist())
    for passage in rest:
        if len(wanted) >= passages:
            break
        wanted.add(passage)
    numbers = np.array(sorted(wanted), dtype=np.int32)
    places = {number: place for place, number in enumerate(numbers.tolist())}
    listed = [[places[passage] for passage in found] for found in answers]
    return DevSet(texts, pairs.passages.texts(numbers), listed, metrics), taken


def _from_bm25(pairs: Pairs, texts: list[str], most: int) -> set[int]:
    """The best of every query in turn, until there are enough."""
    if most <= 0 or len(pairs.passages) <= most:
        return set(range(len(pairs.passages))) if most > 0 else set()
    run = BM25.build(pairs.passages).search({str(row): text for row, text in enumerate(texts)}, _FROM_BM25)
    ranked = [pairs.passages.numbers_of(run[query].ids).tolist() for query in run]
    found: set[int] = set()
    for rank in range(_FROM_BM25):
        found |= {numbers[rank] for numbers in ranked if rank < len(numbers) and len(found) < most}
    return found
