"""Hard negatives: what a retriever finds for the training queries that is not known to be right.

Mining is by number: passages that are known answers are dropped by identity. What is left may still be right (nobody
judged it), and the better the retriever, the more of it is. So candidates that score like the answer itself are
dropped too:

    absolute margin a    kept where s(q, d) ≤ s(q, d⁺) − a
    relative margin r    kept where s(q, d) ≤ s(q, d⁺) − r · |s(q, d⁺)|
    teacher margin t     the same as the first, in the scores of a cross-encoder

d⁺ is the query's best-scored answer.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retromae.core import distributed
from retromae.core.config import setting
from retromae.core.errors import UserError
from retromae.core.files import replacing
from retromae.retrieval.embed import embed_corpus
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.index import VectorIndex, build_index
from retromae.retrieval.lexical import BM25
from retromae.retrieval.shards import VectorStore
from retromae.retrieval.vectors import Vectors
from retromae.text.candidates import Candidates
from retromae.text.pairs import Lists, Pairs
from retromae.training.scores import score_candidates, scores_folder
from retromae.training.sources import open_teacher

_QUERIES, _BM25_QUERIES = 256, 8192  # searched at once
_ANSWERS = 50  # known answers of a query that are looked past, at most


@dataclass
class MineConfig:
    """What is kept of what was found."""

    depth: int = setting(200, "candidates of each query that are looked at, best first")
    skip: int = setting(0, "leave out so many of the best candidates")
    absolute_margin: float | None = setting(
        None, "drop candidates that score above the positive minus this: they may be right"
    )
    relative_margin: float | None = setting(
        None, "drop candidates above the positive's score minus this share of its size (0.05 is usual)"
    )
    per_system: int | None = setting(
        None, "of a file of published negatives: so many of each retriever that found some, at most"
    )


@dataclass
class Found:
    """What a retriever gave: the best passages of every query, and its score of the query's best answer."""

    places: NDArray[np.int32]  # (n, k), −1 where there is none
    scores: NDArray[np.float32]  # (n, k)
    answers: NDArray[np.float32]  # (n,) NaN where unknown
    facts: dict[str, Any] = field(default_factory=dict)


def mine(
    encoder: Encoder,
    pairs: Pairs,
    work: Path,
    config: MineConfig,
    *,
    progress: bool = False,
) -> Candidates:
    """Mine with an encoder; every process of a run calls this, and gets the same.

    `work` holds the corpus' vectors meanwhile: a call that was interrupted goes on with them. It is removed.
    """
    _check(config)
    vectors = work / "vectors"
    embed_corpus(encoder, lambda: iter(pairs.passages), vectors, progress=progress)
    distributed.barrier()
    distributed.first_decides(lambda: _index(vectors, work / "index"))
    index = VectorIndex(work / "index")
    ranks, rank = distributed.world_size(), distributed.rank()
    part = work / f"found-{rank}-of-{ranks}.npz"
    found = _search(encoder, index, pairs, np.arange(rank, len(pairs), ranks), config)
    with replacing(part) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, places=found.places, scores=found.scores, answers=found.answers)
    distributed.barrier()
    whole = _joined([work / f"found-{r}-of-{ranks}.npz" for r in range(ranks)], len(pairs))
    whole.facts = {"model": encoder.source, "fingerprint": encoder.fingerprint}
    del index, found
    distributed.barrier()
    if distributed.writes():
        _remove(work)
    return keep(whole, pairs, config)


def mine_bm25(pairs: Pairs, config: MineConfig, language: str = "english") -> Candidates:
    """Mine with BM25. Its score of an answer that it does not find among the candidates is not known."""
    _check(config)
    bm25 = BM25.build(pairs.passages, language=language)
    wide = min(config.depth + config.skip + _ANSWERS, len(pairs.passages))
    places = np.full((len(pairs), wide), -1, dtype=np.int32)
    scores = np.zeros((len(pairs), wide), dtype=np.float32)
    answers = np.full(len(pairs), np.nan, dtype=np.float32)
    for start in range(0, len(pairs), _BM25_QUERIES):
        rows = range(start, min(start + _BM25_QUERIES, len(pairs)))
        texts = pairs.queries.texts(np.array(rows))
        offsets, documents, values, _ = bm25.search({str(q): t for q, t in zip(rows, texts)}, wide).flat()
        for query, begin, end in zip(rows, offsets.tolist(), offsets.tolist()[1:]):
            places[query, : end - begin], scores[query, : end - begin] = (
                documents[begin:end],
                values[begin:end],
            )
            right = np.isin(documents[begin:end], pairs.positives[query])
            if right.any():
                answers[query] = values[begin:end][right].max()
    return keep(Found(places, scores, answers, {"model": "bm25", "language": language}), pairs, config)


def _check(config: MineConfig) -> None:
    if config.per_system is not None:
        raise UserError("per_system is of a file of published negatives; a retriever has depth.")
    check_rules(config)


def check_rules(config: MineConfig) -> None:
    if config.per_system is not None and config.per_system < 1:
        raise UserError(f"per_system must be at least 1, not {config.per_system}.")
    if config.depth < 1 or config.skip < 0:
        raise UserError(
            f"depth must be at least 1 and skip at least 0, not {config.depth} and {config.skip}."
        )


def _remove(work: Path) -> None:
    """It loses its name first: half of it would be taken for something that a kill has left to go on with."""
    doomed = work.with_name(f"{work.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(work, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _index(vectors: Path, folder: Path) -> None:
    if not folder.exists():
        build_index(VectorStore(vectors), folder)


def _search(
    encoder: Encoder, index: VectorIndex, pairs: Pairs, rows: NDArray[np.int64], config: MineConfig
) -> Found:
    """The candidates of some queries and the score of their best answers."""
    wide = min(config.depth + config.skip + _ANSWERS, len(index))
    places = np.empty((len(rows), wide), dtype=np.int32)
    scores = np.empty((len(rows), wide), dtype=np.float32)
    answers = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _QUERIES):
        part = slice(start, start + _QUERIES)
        queries = encoder.encode_queries(pairs.queries.texts(rows[part]))
        found = index.search(queries, wide)
        places[part], scores[part] = found.places, found.scores
        answers[part] = [
            _best_answer(queries, row, index, pairs.positives[int(query)])
            for row, query in enumerate(rows[part])
        ]
    return Found(places, scores, answers)


def _best_answer(queries: Vectors, row: int, index: VectorIndex, answers: NDArray[np.int32]) -> float:
    documents = index.document_vectors(answers.tolist())
    scores = documents.dense.astype(np.float64) @ queries.dense[row]
    if queries.lexical is not None and documents.lexical is not None:
        weights: Any = queries.lexical[[row]]
        scores = scores + (documents.lexical @ weights.T).toarray()[:, 0]
    return float(scores.max())


def _joined(parts: list[Path], queries: int) -> Found:
    """The processes' parts, dealt out in turn, as one."""
    loaded = [np.load(part) for part in parts]
    wide = loaded[0]["places"].shape[1]
    whole = Found(
        np.empty((queries, wide), np.int32),
        np.empty((queries, wide), np.float32),
        np.empty(queries, np.float32),
    )
    for rank, part in enumerate(loaded):
        for name in ("places", "scores", "answers"):
            getattr(whole, name)[rank :: len(parts)] = part[name]
    return whole


def keep(found: Found, pairs: Pairs, config: MineConfig) -> Candidates:
    """What may be trained on as wrong, best first, with the numbers of what was dropped."""
    kept: list[NDArray[np.int32]] = []
    scores: list[NDArray[np.float32]] = []
    dropped = {"known answers": 0, "absolute margin": 0, "relative margin": 0}
    for query in range(len(pairs)):
        there = found.places[query] >= 0
        places, values = found.places[query][there], found.scores[query][there]
        known = np.isin(places, pairs.positives[query])
        dropped["known answers"] += int(known.sum())
        rows = np.flatnonzero(~known)[config.skip : config.skip + config.depth]
        for name, limit in limits(found.answers[query], config).items():
            close = values[rows] > limit
            dropped[name] += int(close.sum())
            rows = rows[~close]
        kept.append(places[rows])
        scores.append(values[rows])
    lists = Lists.from_lists(kept)
    facts = {
        **found.facts,
        **vars(config),
        "queries": len(pairs),
        "candidates": len(lists.members),
        "queries without candidates": sum(not len(row) for row in kept),
        "dropped": dropped,
    }
    return Candidates(lists, np.concatenate([*scores, np.empty(0, np.float32)]), facts)


def limits(answer: float, config: MineConfig) -> dict[str, float]:
    """The highest score that a candidate may have, by the name of the rule."""
    if np.isnan(answer):
        return {}
    limits = {}
    if config.absolute_margin is not None:
        limits["absolute margin"] = float(answer) - config.absolute_margin
    if config.relative_margin is not None:
        limits["relative margin"] = float(answer) - config.relative_margin * abs(float(answer))
    return limits


def reject_by_teacher(
    candidates: Candidates, pairs: Pairs, teacher: str, margin: float, *, progress: bool = False
) -> Candidates:
    """Drop candidates that a cross-encoder scores above the query's best answer minus `margin`."""
    scores = score_candidates(
        open_teacher(teacher), pairs, candidates, scores_folder(teacher), progress=progress
    )
    answers = np.maximum.reduceat(scores.positives, pairs.positives.starts[:-1])
    return reject(candidates, scores.candidates, answers, margin)


def reject(
    candidates: Candidates, scores: NDArray[np.float32], answers: NDArray[np.float32], margin: float
) -> Candidates:
    """The candidates whose score (m,) is at most that of their query's best answer (n,) minus `margin`."""
    lengths = np.diff(candidates.lists.starts)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    kept = scores <= answers[owner] - margin
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner[kept], minlength=len(lengths)))])
    dropped = {**candidates.facts.get("dropped", {}), "teacher": int((~kept).sum())}
    facts = {
        **candidates.facts,
        "teacher_margin": margin,
        "candidates": int(kept.sum()),
        "dropped": dropped,
    }
    lists = Lists(starts.astype(np.int64), candidates.lists.members[kept])
    return Candidates(lists, candidates.scores[kept], facts)


def turnover(before: Lists, now: Lists, window: int) -> float:
    """The share of the queries' best `window` candidates that were not among those of before."""
    new = total = 0
    for query in range(len(now)):
        mine = now[query][:window]
        new += int((~np.isin(mine, before[query][:window])).sum())
        total += len(mine)
    return new / max(1, total)
