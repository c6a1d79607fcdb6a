"""A pre-training loop of this library on made-up rows in memory, as the benchmarks of its speed need it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import BertConfig

from benchmarks import common
from benchmarks.textbook import SpecialIds
from retromae.models.backbone import Backbone
from retromae.objectives import Objective, Vocabulary, load
from retromae.training.ahead import Beside
from retromae.training.batches import BatchPlan, MicroBatch, Padding, RowBatches
from retromae.training.chunks import Chunk, cut

SEED = 0
Lengths = Callable[[int, int], NDArray[np.int64]]


@dataclass(frozen=True)
class Case:
    """One line of a table: a model, and rows of some lengths."""

    layers: int
    hidden: int
    vocabulary: int
    lengths: Lengths
    rows: int
    textbook_batches: int = 2  # per round
    our_batches: int = 4

    def config(self, max_positions: int = 512, dropout: float = 0.0) -> BertConfig:
        return BertConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // 64,
            intermediate_size=4 * self.hidden,
            max_position_embeddings=max_positions,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )


class MemoryRows:
    """Rows in memory, behind the part of `text.rows.Rows` that batches need."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = [np.asarray(row, dtype=np.int32) for row in rows]
        self.lengths = np.asarray([len(row) for row in rows], dtype=np.int32)

    def take(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        return np.concatenate([self.rows[i] for i in indices]), self.lengths[indices]


class Loop:
    """Plan, rows, draws, step."""

    def __init__(
        self,
        case: Case,
        rows: list[list[int]],
        device: str = "cpu",
        *,
        objective: str = "retromae",
        dropout: float = 0.0,
        multiple: int = 1,
        chunk_tokens: int = 0,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(SEED)
        self.device, self.multiple, self.chunk_tokens = torch.device(device), multiple, chunk_tokens
        backbone = Backbone.from_config(case.config(dropout=dropout))
        self.objective = objective_for(backbone, case.vocabulary, objective).to(device).train()
        if compiled:
            self.objective.compile_parts()
        memory: Any = MemoryRows(rows)
        special = SpecialIds()
        padding = Padding(special.cls, special.sep, special.pad, 512, multiple)
        mean = float(padding.length(memory.lengths).mean())
        plan = BatchPlan(np.arange(len(rows)), memory.lengths, padding, round(case.rows * mean), SEED)
        self.plan, self.waste = plan, plan.waste()
        self.dataset = RowBatches(memory, padding, case.vocabulary)
        self.batches: Iterator[list[MicroBatch]] = plan.steps()
        self.optimizer = torch.optim.AdamW(
            self.objective.parameters(), lr=1e-4, weight_decay=0.01, fused=True
        )
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
        self.beside = Beside(self.device)

    def run(self, batches: int) -> tuple[int, float, float]:
        """(tokens of the rows, seconds of steps, seconds of masks and batching), on a CPU"""
        tokens, step, prepare = 0, 0.0, 0.0
        for _ in range(batches):
            started = time.perf_counter()
            chunks = self.drawn()
            for chunk in chunks:  # drawn again inside the step, as in training: counted in both
                self.objective.visible(chunk.batch)
            prepared = time.perf_counter()
            self.learn(chunks)
            self.update()
            step += time.perf_counter() - prepared
            prepare += prepared - started
            tokens += sum(int(chunk.batch.attention_mask.sum()) for chunk in chunks)
        return tokens, step, prepare

    def train(self, batches: int) -> int:
        """Steps that wait for nothing; the tokens of their rows."""
        tokens = 0
        for _ in range(batches):
            chunks = self.parts()
            tokens += sum(int(chunk.attention_mask.sum()) for chunk in chunks)
            self.learn([self.draw(part) for part in chunks])
            self.update()
        return tokens

    def parts(self) -> list[Any]:
        """The next batch, on the host, in the parts that go through together."""
        (micro,) = next(self.batches)
        return cut(self.dataset[micro], self.chunk_tokens, self.multiple)

    def drawn(self) -> list[Chunk]:
        return [self.draw(part) for part in self.parts()]

    def draw(self, part: Any) -> Chunk:
        def work() -> Chunk:
            moved = part.to(self.device)
            return Chunk(moved, self.objective.draw_ahead(moved), 0, 0)

        return self.beside.do(work, Chunk.tensors)

    def learn(self, chunks: list[Chunk]) -> None:
        counts = [chunk.drawn.counts for chunk in chunks]
        totals = {name: torch.stack([one[name] for one in counts]).sum() for name in counts[0]}
        for chunk in chunks:
            with self.autocast:
                loss = self.objective(chunk.batch, chunk.drawn, totals)["loss"]
            loss.backward()

    def update(self) -> None:
        nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def objective_for(backbone: Backbone, vocabulary: int, name: str = "retromae") -> Objective:
    ordinary = torch.arange(vocabulary) >= common.ORDINARY
    words = Vocabulary(SpecialIds().mask, torch.from_numpy(common.word_starts(vocabulary)), ordinary)
    kind = load(name)
    return kind(backbone, kind.Config(), words, SEED)
