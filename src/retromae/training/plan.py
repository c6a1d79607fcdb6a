"""Which queries and passages train together: a pure function of (seed, number of the batch).

In-batch training takes the other queries' passages for negatives, so that one passage that answers two queries of
a batch would be trained as right and wrong at once. No such batch is made here, whatever the data: neither by the
positives nor by the negatives that are drawn for a query. "Batch" is what is compared with each other: the
batches of all processes together, where they share their passages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retromae.core.draws import Stream, key, mix64, order
from retromae.core.errors import UserError
from retromae.text.pairs import Lists

Numbers = NDArray[np.int32]
_WAITING = 64  # batches' worth of queries that may wait for a batch that they fit into


class Chosen(NamedTuple):
    """The queries of one batch, the answer of each that is trained on, and in which pass over the data."""

    queries: Numbers  # (B,)
    positives: Numbers  # (B,)
    passes: Numbers  # (B,)


class QueryPlan:
    """An endless stream of full batches; every pass over the queries has an order of its own."""

    def __init__(self, answers: Lists, queries: Numbers, batch_size: int, seed: int) -> None:
        """`queries` are those to train on; `answers` those of every query."""
        if batch_size > len(queries):
            raise UserError(
                f"a batch of {batch_size} queries cannot be filled from {len(queries)}; lower the batch size."
            )
        self.answers, self.queries = answers, queries
        self.batch_size, self.seed = batch_size, seed
        self.left_out = 0  # queries that never fitted into a batch of their pass
        self._batches: list[Chosen] = []
        self._rows = self._stream()
        self._waiting: deque[tuple[int, int, int]] = deque()

    def __reduce__(self) -> tuple[type[QueryPlan], tuple[Any, ...]]:
        """Another process makes its own stream, which is the same."""
        return QueryPlan, (self.answers, self.queries, self.batch_size, self.seed)

    @property
    def batches_per_pass(self) -> float:
        return len(self.queries) / self.batch_size

    def batch(self, number: int) -> Chosen:
        while len(self._batches) <= number:
            self._batches.append(self._next())
        return self._batches[number]

    def _stream(self) -> Iterator[tuple[int, int, int]]:
        """(query, answer, pass), endlessly."""
        queries = self.queries.astype(np.uint64)
        starts = self.answers.starts[self.queries]
        counts = (self.answers.starts[self.queries.astype(np.int64) + 1] - starts).astype(np.uint64)
        number = 0
        while True:
            salt = key(self.seed, int(Stream.POSITIVES), number)
            which = mix64(queries + np.uint64(salt << 32 | salt)) % counts
            answers = self.answers.members[starts + which.astype(np.int64)]
            shuffled = order(len(self.queries), self.seed, int(Stream.BATCHES), number)
            for row in shuffled.tolist():
                yield int(self.queries[row]), int(answers[row]), number
            number += 1

    def _next(self) -> Chosen:
        """The first rows of the stream that do not contradict each other; the others wait for the next batch."""
        chosen: list[tuple[int, int, int]] = []
        positives: set[int] = set()
        answers: set[int] = set()  # of all chosen queries
        waiting: list[tuple[int, int, int]] = []
        refused, bearable = 0, len(self.queries) + _WAITING * self.batch_size
        while len(chosen) < self.batch_size:
            row = self._waiting.popleft() if self._waiting else next(self._rows)
            query, positive, _ = row
            own = self.answers[query].tolist()
            if positive in answers or not positives.isdisjoint(own):
                waiting.append(row)
                refused += 1
                if refused > bearable:
                    raise UserError(
                        f"no batch of {self.batch_size} queries can be made without two that share an answer; "
                        f"lower the batch size to {max(1, len(chosen))} or less."
                    )
                continue
            chosen.append(row)
            positives.add(positive)
            answers.update(own)
            refused = 0
        self._waiting.extendleft(reversed(waiting))
        while len(self._waiting) > _WAITING * self.batch_size:
            self._waiting.pop()
            self.left_out += 1
        return Chosen(*np.array(chosen, dtype=np.int32).T)


class NegativeDraws:
    """Negatives for every query of a batch, out of the best `window` of its candidates."""

    def __init__(
        self, plan: QueryPlan, candidates: Lists, *, number: int, window: int, passages: int, repeat: bool
    ) -> None:
        """`number` for each query. Where its candidates do not suffice the rest are random ones of the `passages`,
        or with `repeat` the same ones again (for training on scores that only candidates have)."""
        self.plan, self.candidates = plan, candidates
        self.number, self.window, self.passages, self.repeat = number, window, passages, repeat
        self.drawn = self.filled = 0

    def draw(self, batch: Chosen) -> Numbers:
        """(B, number): none answers any query of the batch, and none stands in the batch twice, but for `repeat`."""
        taken = {int(passage) for query in batch.queries for passage in self.plan.answers[int(query)]}
        rows = []
        for query, number in zip(batch.queries.tolist(), batch.passes.tolist()):
            salt = key(self.plan.seed, int(Stream.NEGATIVES), number, query)
            pool = self.candidates[query][: self.window]
            shuffled = pool[order(len(pool), salt)].tolist()
            found = [passage for passage in shuffled if passage not in taken][: self.number]
            self.drawn += self.number
            self.filled += self.number - len(found)
            if self.repeat and not found:  # rather one that answers another query than none
                own = set(self.plan.answers[query].tolist())
                found = [passage for passage in shuffled if passage not in own][: self.number]
            found += self._fill(found, taken, salt)
            taken.update(found)
            rows.append(found)
        return np.array(rows, dtype=np.int32).reshape(len(rows), self.number)

    def _fill(self, found: list[int], taken: set[int], salt: int) -> list[int]:
        missing = self.number - len(found)
        if not missing:
            return []
        if self.repeat and found:
            return [found[place % len(found)] for place in range(missing)]
        if self.passages - len(taken) - len(found) < missing:
            raise UserError(
                f"{self.passages} passages are too few for {self.number} negatives of each query in batches of "
                f"{self.plan.batch_size}; lower train_group_size or the batch size."
            )
        used, place = taken | set(found), 0
        fresh: list[int] = []
        while len(fresh) < missing:
            passage = int(mix64(np.array([salt << 32 | place], dtype=np.uint64))[0]) % self.passages
            place += 1
            if passage not in used:
                used.add(passage)
                fresh.append(passage)
        return fresh
