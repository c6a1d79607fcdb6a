"""The texts of a training step, joined by number when they are needed: memory does not grow with the data.

sentence-transformers' trainers read a `datasets.Dataset`; ours holds nothing but row numbers. A row is one query
with its passages (`query`, `positive`, `negative_1` …), and a `label` where something must be known of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from sentence_transformers.base.sampler import DefaultBatchSampler

from retromae.text.pairs import Pairs
from retromae.training.plan import Chosen, NegativeDraws, Numbers, QueryPlan

# (queries (B,), passages (B, G)) → (B, G): what a teacher says of them
Scores = Callable[[Numbers, Numbers], NDArray[np.float32]]


class Groups:
    """Every query's group of one positive and its negatives, batch by batch."""

    def __init__(
        self, pairs: Pairs, plan: QueryPlan, negatives: NegativeDraws | None, scores: Scores | None = None
    ) -> None:
        self.pairs, self.plan, self.negatives, self.scores = pairs, plan, negatives, scores
        self._made = lru_cache(maxsize=4)(self._make)  # a batch is asked for once by every process's loader

    def __reduce__(self) -> tuple[type[Groups], tuple[Any, ...]]:
        return Groups, (self.pairs, self.plan, self.negatives, self.scores)

    @property
    def size(self) -> int:
        """Passages of a group."""
        return 1 + (self.negatives.number if self.negatives else 0)

    def batch(self, number: int) -> tuple[Chosen, Numbers]:
        """Batch `number` and its passages (B, G), the positive first."""
        return self._made(number)

    def _make(self, number: int) -> tuple[Chosen, Numbers]:
        chosen = self.plan.batch(number)
        passages = chosen.positives[:, None]
        if self.negatives is not None:
            passages = np.concatenate([passages, self.negatives.draw(chosen)], axis=1)
        return chosen, passages

    def dataset(self, batches: int, *, numbers: bool = False) -> Dataset:
        """So many batches, row by row. `label` holds the teacher's scores (G), then with `numbers` the pass, the
        query's number and the passages' (2 + G)."""
        rows = Dataset.from_dict({"row": np.arange(batches * self.plan.batch_size)})
        rows.set_transform(partial(self._join, numbers=numbers))
        return rows

    def _join(self, wanted: dict[str, list[int]], numbers: bool) -> dict[str, list[Any]]:
        size, rows = self.plan.batch_size, np.asarray(wanted["row"])
        parts: list[tuple[Numbers, Numbers, Numbers]] = []
        for number in np.unique(rows // size).tolist():
            chosen, passages = self.batch(number)
            mine = rows[rows // size == number] % size
            parts.append((chosen.queries[mine], chosen.passes[mine], passages[mine]))
        queries, passes, passages = (np.concatenate(arrays) for arrays in zip(*parts))
        columns: dict[str, list[Any]] = {"query": self.pairs.queries.texts(queries)}
        texts = self.pairs.passages.texts(passages.T.ravel())
        for place in range(self.size):
            name = f"negative_{place}" if place else "positive"
            columns[name] = texts[place * len(queries) : (place + 1) * len(queries)]
        labels = []
        if self.scores is not None:
            labels.append(self.scores(queries, passages).astype(np.float64))
        if numbers:
            labels.append(np.column_stack([passes, queries, passages]).astype(np.float64))
        if labels:
            # float64, as tensors: the collator would make float32 of lists, which cannot hold every number
            columns["label"] = list(torch.from_numpy(np.concatenate(labels, axis=1)))
        return columns


class InOrder(DefaultBatchSampler):
    """Rows in their order: the plan has shuffled them, and processes take consecutive parts of its batches."""

    def __init__(self, dataset: Dataset, batch_size: int, **_: Any) -> None:
        super().__init__(range(len(dataset)), batch_size=batch_size, drop_last=False)
        self.rows = len(dataset)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.rows, self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.rows)))
