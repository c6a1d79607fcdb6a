"""Groups to train a cross-encoder on: a query, one of its answers, and negatives from the top of its candidates.

Everything is by number, and a pure function of (seed, pass, query), so a run resumes anywhere; texts are joined for
one batch at a time. Unlike in-batch training, groups have nothing to do with each other: each is its own softmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from retromae.core.draws import Stream, key, mix64, order
from retromae.text.candidates import Candidates
from retromae.text.pairs import Lists, Pairs

Loss = Literal["listwise", "binary"]
Integers = NDArray[np.int64]
CERTAIN = 1e4  # the label of the answer: its softmax beside zeros is one, exactly
_BLOCK = 8192  # queries that are looked at together


def take(lists: Lists, rows: Integers) -> Lists:
    """Some rows of `lists`, one list for each."""
    lengths = lists.starts[rows + 1] - lists.starts[rows]
    starts = _starts(lengths)
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    return Lists(starts, lists.members[np.repeat(lists.starts[rows], lengths) + within])


def places(lists: Lists) -> Integers:
    """(m,) for each member its place in its own list."""
    return np.arange(len(lists.members)) - np.repeat(lists.starts[:-1], lists.lengths)


def negatives_of(pairs: Pairs, candidates: Candidates, rows: Integers, window: int) -> Lists:
    """The best `window` candidates of each query that are no known answers of it, best first."""
    found, answers = take(candidates.lists, rows), take(pairs.positives, rows)
    width = np.int64(len(pairs.passages))
    wrong = ~np.isin(found.owners * width + found.members, answers.owners * width + answers.members)
    lengths = np.bincount(found.owners[wrong], minlength=len(rows))
    negatives = Lists(_starts(lengths), found.members[wrong])
    return Lists(_starts(np.minimum(lengths, window)), negatives.members[places(negatives) < window])


def _starts(lengths: Integers) -> Integers:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])


@dataclass(frozen=True)
class Groups:
    """`size` passages for every query: one answer and, as far as there are so many, size − 1 negatives."""

    pairs: Pairs
    candidates: Candidates
    size: int
    window: int
    seed: int

    def trainable(self) -> Integers:
        """The queries that have a negative at all."""
        blocks = [
            np.arange(start, min(start + _BLOCK, len(self.pairs)))
            for start in range(0, len(self.pairs), _BLOCK)
        ]
        kept = [
            rows[negatives_of(self.pairs, self.candidates, rows, self.window).lengths > 0] for rows in blocks
        ]
        return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)

    def draw(self, passes: Integers, rows: Integers) -> Lists:
        """For each (pass, query) the passages of its group, the answer first."""
        answers = take(self.pairs.positives, rows)
        which = self._hashes(Stream.POSITIVES, passes, rows) % answers.lengths.astype(np.uint64)
        positives = answers.members[answers.starts[:-1] + which.astype(np.int64)]  # (B,)

        pool = negatives_of(self.pairs, self.candidates, rows, self.window)
        place = places(pool)
        hashes = self._hashes(Stream.NEGATIVES, passes, rows)[pool.owners] + place.astype(np.uint64)
        shuffled = np.lexsort(
            (mix64(hashes), pool.owners)
        )  # every query's negatives in an order of their own
        chosen = shuffled[place < self.size - 1]
        owners = np.concatenate([np.arange(len(rows)), pool.owners[chosen]])
        members = np.concatenate([positives, pool.members[chosen]])[np.argsort(owners, kind="stable")]
        return Lists(_starts(np.bincount(owners, minlength=len(rows))), members)

    def _hashes(self, stream: Stream, passes: Integers, rows: Integers) -> NDArray[np.uint64]:
        """(B,) 64 random bits for every (pass, query)."""
        salt = key(self.seed, int(stream))
        mixed = mix64(passes.astype(np.uint64) + np.uint64(salt << 32 | salt))
        return mix64(mixed ^ rows.astype(np.uint64))


class Batch(NamedTuple):
    """One forward pass of one process."""

    passes: Integers  # (B,)
    rows: Integers  # (B,) queries


@dataclass(frozen=True)
class GroupPlan:
    """An endless stream of batches; every pass over the queries has an order of its own.

    One optimiser step takes `batches_per_step` (processes × accumulation) of them. All are full: the last one of a
    pass goes on with the next pass.
    """

    rows: Integers
    batch_size: int
    batches_per_step: int
    seed: int

    @property
    def steps_per_pass(self) -> float:
        return len(self.rows) / (self.batch_size * self.batches_per_step)

    def steps_in(self, passes: float) -> int:
        return max(1, ceil(len(self.rows) * passes / (self.batch_size * self.batches_per_step)))

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """All batches from one on."""
        current, shuffled = -1, self.rows
        for number in range(start, 1 << 62):
            places = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
            passes, within = np.divmod(places, len(self.rows))
            rows = np.empty_like(within)
            for each in np.unique(passes).tolist():
                if each != current:
                    current = each
                    shuffled = self.rows[order(len(self.rows), self.seed, int(Stream.BATCHES), each)]
                rows[passes == each] = shuffled[within[passes == each]]
            yield Batch(passes, rows)


@dataclass(frozen=True)
class ShareOfPlan:
    """The batches of one process, from one step to the last."""

    plan: GroupPlan
    rank: int
    world_size: int
    start: int
    total_steps: int

    def __len__(self) -> int:
        return (self.total_steps - self.start) * self.plan.batches_per_step // self.world_size

    def __iter__(self) -> Iterator[Batch]:
        batches = self.plan.batches(self.start * self.plan.batches_per_step)
        for number, batch in zip(range(len(self) * self.world_size), batches):
            if number % self.world_size == self.rank:
                yield batch


class GroupTexts(Dataset[dict[str, Any]]):
    """Batches in the form that the cross-encoder losses of sentence-transformers take."""

    def __init__(self, groups: Groups, loss: Loss) -> None:
        self.groups, self.loss = groups, loss

    def __getitem__(self, batch: Batch) -> dict[str, Any]:
        groups, pairs = self.groups.draw(batch.passes, batch.rows), self.groups.pairs
        queries, passages = pairs.queries.texts(batch.rows), pairs.passages.texts(groups.members)
        labels = torch.zeros(len(passages))
        labels[torch.from_numpy(groups.starts[:-1])] = CERTAIN if self.loss == "listwise" else 1.0
        if self.loss == "binary":
            repeated = [queries[owner] for owner in groups.owners.tolist()]
            return {"query": repeated, "passage": passages, "label": labels}
        bounds = list(pairwise(groups.starts.tolist()))
        lists = [passages[start:stop] for start, stop in bounds]
        return {"query": queries, "passages": lists, "label": [labels[start:stop] for start, stop in bounds]}
