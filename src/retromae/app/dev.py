"""Measuring retrieval while a model is fine-tuned: real queries against a part of the real corpus.

A whole corpus takes too long to be encoded every few hundred steps. The part holds every passage that answers one of
the queries, the best that BM25 finds for each (so that it is not easy), and random ones. Its figures are higher than
those of the whole corpus; they are for choosing between checkpoints, not for reports.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sentence_transformers import SentenceTransformer

from retromae.core.distributed import writes
from retromae.core.draws import Stream, order
from retromae.core.errors import UserError
from retromae.core.ranking import Run, id_ranks, top_k
from retromae.core.runs import Outcome
from retromae.evaluation.metrics import evaluate_run, metric_name
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.lexical import BM25
from retromae.retrieval.vectors import Vectors
from retromae.text.layouts import Qrels
from retromae.text.pairs import Pairs
from retromae.text.store import Passage
from retromae.training.finetune import claimed, finetune
from retromae.training.finetune_settings import FinetuneConfig

_FROM_BM25 = 20  # passages that BM25 finds for each query
_HELD_OUT = 0.05  # of the training queries, where the data has no part for this
_DEPTH = 100
_AT_ONCE = 64  # queries whose lexical halves are held as full rows
_METRICS = ("nDCG@10", "RR@10", "R@100")


@dataclass
class DevSet:
    """Queries, the passages that are searched, and who answers whom; called with a model, it measures it."""

    queries: dict[str, str]
    passages: list[Passage]
    qrels: Qrels
    metrics: tuple[str, ...]

    def __call__(self, model: SentenceTransformer) -> dict[str, float]:
        result = evaluate_run(self.qrels, self.rank(Encoder(model)), self.metrics)
        return {name: metric.mean for name, metric in result.metrics.items()}

    def rank(self, encoder: Encoder, *, dense_only: bool = False) -> Run:
        """The best passages of every query, exactly; `dense_only` leaves DupMAE's lexical half out."""
        passages = encoder.encode_passages(
            [passage.text for passage in self.passages], [passage.title for passage in self.passages]
        )
        return self.ranked(encoder, passages, dense_only=dense_only)

    def ranked(self, encoder: Encoder, passages: Vectors, *, dense_only: bool = False) -> Run:
        """The same from vectors of the passages."""
        ids = [passage.id for passage in self.passages]
        ranks = id_ranks(ids)
        names = list(self.queries)
        places, values = [], []
        for start in range(0, len(names), _AT_ONCE):
            part = names[start : start + _AT_ONCE]
            queries = encoder.encode_queries([self.queries[name] for name in part])
            best, scores = top_k(_scores(queries, passages, dense_only), ranks, _DEPTH)
            places.append(best)
            values.append(scores)
        return Run.from_top_k(names, np.concatenate(places), np.concatenate(values), ids)

    def bm25(self, language: str = "english") -> Run:
        return BM25.build(self.passages, language=language).search(self.queries, _DEPTH)


def _scores(queries: Vectors, passages: Vectors, dense_only: bool) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = queries.dense @ passages.dense.T
    if dense_only:
        return scores
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
        return DevSet({}, [], {}, metrics), taken
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
    found = [pairs.passages[number] for number in numbers.tolist()]
    ids = pairs.queries.ids_of(chosen)
    qrels = {
        name: {pairs.passages[passage].id: 1 for passage in listed} for name, listed in zip(ids, answers)
    }
    return DevSet(dict(zip(ids, texts)), found, qrels, metrics), taken


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


def finetune_on_dev(config: FinetuneConfig, *, resume: bool, console: Console | None = None) -> Outcome:
    """Fine-tune, measuring retrieval on the dev set that `config` describes while training."""
    config = replace(config, eval_metric=metric_name(config.eval_metric))
    folder, _ = claimed(config, resume)  # before the dev set, which takes its time
    judge, held_out = None, None
    if config.eval_queries and not folder.read_manifest().get("finished"):
        judge, held_out = dev_set(
            config.pairs,
            config.eval_split,
            train=config.split,
            queries=config.eval_queries,
            passages=config.eval_passages,
            metric=config.eval_metric,
            cache=config.cache,
            seed=config.seed,
        )
    return finetune(config, judge=judge, held_out=held_out, resume=resume, console=console)
