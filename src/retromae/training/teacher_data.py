"""What a teacher learns from and what it is measured on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retromae.core.draws import Stream, order
from retromae.core.errors import UserError
from retromae.text.candidates import Candidates
from retromae.text.pairs import Pairs
from retromae.training.reranking import Reranking
from retromae.training.session import required
from retromae.training.teacher_groups import Groups
from retromae.training.teacher_settings import TeacherConfig


class TeacherData(NamedTuple):
    """What a teacher learns from, and what it is measured on."""

    pairs: Pairs
    candidates: Candidates
    dev: tuple[Pairs, Candidates] | None = None  # None: some of the queries are held out


def open_data(config: TeacherConfig) -> TeacherData:
    """Pairs and candidates from the paths in `config`."""
    source = required(config.pairs, "pairs")
    pairs = Pairs.open(source, config.split, cache=config.cache)
    candidates = candidates_for(pairs, config.negatives)
    if config.dev_negatives is None or not config.eval_queries:
        return TeacherData(pairs, candidates)
    dev = Pairs.open(source, config.dev_split, cache=config.cache)
    return TeacherData(pairs, candidates, (dev, candidates_for(dev, config.dev_negatives)))


def candidates_for(pairs: Pairs, path: str | None) -> Candidates:
    """Candidates from a path, or the negatives that the pairs came with."""
    if path is not None:
        return Candidates.open(path, pairs)
    given = Candidates.given(pairs)
    if given is None:
        raise UserError(
            f"'{pairs.source}' holds no negatives; mine some with `retromae mine`, and give them as --negatives."
        )
    return given


def measuring(
    data: TeacherData, trainable: NDArray[np.int64], config: TeacherConfig
) -> tuple[NDArray[np.int64], Reranking | None]:
    """(queries to train on, how to measure): on the dev queries, or on a tenth of the others at most, held out.

    Only queries with a negative are measured; which they are is the same for every seed.
    """
    pairs, candidates = data.dev or (data.pairs, data.candidates)
    if data.dev is not None:
        measurable = Groups(pairs, candidates, 2, config.eval_depth, 0).trainable()
        most = config.eval_queries
    else:
        measurable, most = trainable, min(config.eval_queries, len(trainable) // 10)
    shuffled = measurable[order(len(measurable), int(Stream.HOLDOUT))]
    rows = trainable if data.dev is not None else np.sort(shuffled[most:])
    if not len(shuffled[:most]):
        return rows, None
    reranking = Reranking(
        pairs,
        candidates,
        np.sort(shuffled[:most]),
        depth=config.eval_depth,
        batch_tokens=config.batch_tokens,
        bf16=config.bf16,
    )
    return rows, reranking
