"""Pre-training speed and memory: this library against the textbook implementation, in one process, in turn.

    python -m benchmarks.pretrain --json benchmarks/results/pretrain-cpu.json
    python -m benchmarks.pretrain --only "4x256 8k, MS MARCO-like" --rounds 3
    python -m benchmarks.pretrain --gpu --json benchmarks/results/pretrain-gpu.json

Both sides train RetroMAE with enhanced decoding on rows of the same lengths, from the same kind of weights, with the
same dropout (none), the same clipping and AdamW. A step is forward, backward, clipping and update; the loop adds what
comes before it: batching, padding and masks. Tokens are those of the rows, never padding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import BertConfig

from benchmarks import common
from benchmarks.textbook import (
    SpecialIds,
    TextbookCollator,
    TextbookRetroMAE,
    random_batches,
    textbook_optimizer,
    textbook_step,
)
from retromae.models.backbone import Backbone
from retromae.objectives import Batch, Drawn, Vocabulary
from retromae.objectives.retromae import RetroMAE, RetroMAEConfig
from retromae.training.batches import BatchPlan, MicroBatch, Padding, RowBatches
from retromae.training.chunks import cut

SEED = 0
Lengths = Callable[[int, int], NDArray[np.int64]]


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    layers: int
    hidden: int
    vocabulary: int
    lengths: Lengths
    rows: int
    textbook_batches: int = 2  # per round
    our_batches: int = 4

    def config(self, max_positions: int = 512) -> BertConfig:
        return BertConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // 64,
            intermediate_size=4 * self.hidden,
            max_position_embeddings=max_positions,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )


CASES = {
    "4x256 8k, MS MARCO-like": Case(4, 256, 8192, common.msmarco_like, 32, 3, 6),
    "4x256 8k, mixed 16-512": Case(4, 256, 8192, common.mixed, 32, 1, 6),
    "6x384 30k, MS MARCO-like": Case(6, 384, 30522, common.msmarco_like, 32, 1, 3),
    "6x384 30k, mixed 16-512": Case(6, 384, 30522, common.mixed, 16, 1, 4),
    "6x384 30k, 512 blocks": Case(6, 384, 30522, lambda n, seed: common.blocks(n), 6, 1, 2),
    "12x768 30k, MS MARCO-like": Case(12, 768, 30522, common.msmarco_like, 32, 1, 1),
}

GPU_CASES = {
    "MS MARCO-like, at most 150": Case(12, 768, 30522, common.msmarco_like, 512),
    "blocks of 512": Case(12, 768, 30522, lambda n, seed: common.blocks(n), 128),
}


class MemoryRows:
    """Rows in memory, behind the part of `text.rows.Rows` that batches need."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = [np.asarray(row, dtype=np.int32) for row in rows]
        self.lengths = np.asarray([len(row) for row in rows], dtype=np.int32)

    def take(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        return np.concatenate([self.rows[i] for i in indices]), self.lengths[indices]


class Ours:
    """One loop of this library: plan, rows, draws, step."""

    def __init__(
        self,
        case: Case,
        rows: list[list[int]],
        device: str = "cpu",
        *,
        multiple: int = 1,
        chunk_tokens: int = 0,
    ) -> None:
        torch.manual_seed(SEED)
        special = SpecialIds()
        vocabulary = case.vocabulary
        self.device, self.multiple, self.chunk_tokens = device, multiple, chunk_tokens
        objective = objective_for(Backbone.from_config(case.config(), dropout=0.0), vocabulary)
        self.objective = objective.to(device)
        self.model: nn.Module = self.objective
        memory: Any = MemoryRows(rows)
        padding = Padding(special.cls, special.sep, special.pad, 512, multiple)
        mean = float(padding.length(memory.lengths).mean())
        plan = BatchPlan(np.arange(len(rows)), memory.lengths, padding, round(case.rows * mean), SEED)
        self.waste = plan.waste()
        self.dataset = RowBatches(memory, padding, vocabulary)
        self.batches: Iterator[list[MicroBatch]] = plan.steps()
        self.optimizer = torch.optim.AdamW(
            self.objective.parameters(), lr=1e-4, weight_decay=0.01, fused=True
        )
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    def run(self, batches: int) -> tuple[int, float, float]:
        """(tokens of the rows, seconds of steps, seconds of masks and batching)"""
        tokens, step, prepare = 0, 0.0, 0.0
        for _ in range(batches):
            started = time.perf_counter()
            (micro,) = next(self.batches)
            chunks = self.chunks(micro)
            drawn = [self.objective.draw(chunk) for chunk in chunks]
            for chunk in chunks:  # drawn again inside the step, as in training: counted in both
                self.objective.visible(chunk)
            prepared = time.perf_counter()
            self.learn(chunks, drawn)
            self.update()
            step += time.perf_counter() - prepared
            prepare += prepared - started
            tokens += sum(int(chunk.attention_mask.sum()) for chunk in chunks)
        return tokens, step, prepare

    def chunks(self, micro: MicroBatch) -> list[Batch]:
        return [chunk.to(self.device) for chunk in cut(self.dataset[micro], self.chunk_tokens, self.multiple)]

    def learn(self, chunks: list[Batch], drawn: list[Drawn]) -> None:
        totals = {name: torch.stack([one.counts[name] for one in drawn]).sum() for name in drawn[0].counts}
        for chunk, one in zip(chunks, drawn):
            with self.autocast:
                loss = self.model(chunk, one, totals)["loss"]
            loss.backward()

    def update(self) -> None:
        nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def objective_for(backbone: Backbone, vocabulary: int) -> RetroMAE:
    ordinary = torch.arange(vocabulary) >= common.ORDINARY
    words = Vocabulary(SpecialIds().mask, torch.from_numpy(common.word_starts(vocabulary)), ordinary)
    return RetroMAE(backbone, RetroMAEConfig(), words, SEED)


class Textbook:
    """The same loop as people write it."""

    def __init__(self, case: Case, rows: list[list[int]]) -> None:
        torch.manual_seed(SEED)
        self.model = TextbookRetroMAE(case.config())
        self.collator = TextbookCollator(common.word_starts(case.vocabulary), seed=SEED)
        self.batches = cycle(random_batches(rows, case.rows, SEED))
        self.optimizer = textbook_optimizer(self.model)

    def run(self, batches: int) -> tuple[int, float, float]:
        tokens, step, prepare = 0, 0.0, 0.0
        for _ in range(batches):
            started = time.perf_counter()
            batch = self.collator(next(self.batches))
            prepared = time.perf_counter()
            textbook_step(self.model, batch, self.optimizer)
            step += time.perf_counter() - prepared
            prepare += prepared - started
            tokens += int(batch["attention_mask"].sum())
        return tokens, step, prepare


@dataclass(frozen=True)
class Side:
    """Medians over the rounds."""

    step_tokens_per_second: float
    loop_tokens_per_second: float
    mask_seconds_per_1k_tokens: float


def compare(case: Case, rounds: int) -> dict[str, Any]:
    rows = common.random_rows(case.lengths(case.rows * 100, SEED), case.vocabulary, SEED)
    textbook, ours = Textbook(case, rows), Ours(case, rows)
    textbook.run(1), ours.run(1)  # warm-up
    measured: dict[str, list[tuple[int, float, float]]] = {"textbook": [], "ours": []}
    for _ in range(rounds):
        measured["textbook"].append(textbook.run(case.textbook_batches))
        measured["ours"].append(ours.run(case.our_batches))
    sides = {
        name: Side(
            statistics.median(tokens / step for tokens, step, _ in all_),
            statistics.median(tokens / (step + prepare) for tokens, step, prepare in all_),
            statistics.median(1000 * prepare / tokens for tokens, _, prepare in all_),
        )
        for name, all_ in measured.items()
    }
    lengths = np.asarray([len(row) + 2 for row in rows])
    per_token = common.flops_per_step(case.config(), lengths).total / lengths.sum()
    peak = common.matmul_peak(torch.float32)
    return {
        "textbook": asdict(sides["textbook"]),
        "ours": asdict(sides["ours"]),
        "step_ratio": sides["ours"].step_tokens_per_second / sides["textbook"].step_tokens_per_second,
        "loop_ratio": sides["ours"].loop_tokens_per_second / sides["textbook"].loop_tokens_per_second,
        "mask_ratio": sides["textbook"].mask_seconds_per_1k_tokens / sides["ours"].mask_seconds_per_1k_tokens,
        "padding_waste": ours.waste,
        "matmul_peak_gflops": peak,
        "share_of_peak": sides["ours"].step_tokens_per_second * per_token / 1e9 / peak,
        "rounds": rounds,
    }


# -- memory -----------------------------------------------------------------------------------------------------

MEMORY_CASE = Case(4, 256, 8192, lambda n, seed: common.blocks(n), 32)
MEMORY_CHUNK = 2048  # tokens of one forward pass


def _textbook_memory() -> None:
    Textbook(MEMORY_CASE, common.random_rows(common.blocks(32), MEMORY_CASE.vocabulary, SEED)).run(2)


def _our_memory() -> None:
    Ours(MEMORY_CASE, common.random_rows(common.blocks(32), MEMORY_CASE.vocabulary, SEED)).run(2)


def _our_memory_in_chunks() -> None:
    rows = common.random_rows(common.blocks(32), MEMORY_CASE.vocabulary, SEED)
    Ours(MEMORY_CASE, rows, chunk_tokens=MEMORY_CHUNK).run(2)


def memory() -> dict[str, float]:
    """Peak resident memory above the imports of two steps of 32 x 512, each side in a process of its own."""
    textbook = common.peak_memory_cpu(_textbook_memory).added / 2**20
    ours = common.peak_memory_cpu(_our_memory).added / 2**20
    chunks = common.peak_memory_cpu(_our_memory_in_chunks).added / 2**20
    return {
        "textbook_mib": textbook,
        "ours_mib": ours,
        "ratio": textbook / ours,
        f"ours_in_chunks_of_{MEMORY_CHUNK}_mib": chunks,
    }


# -- GPU --------------------------------------------------------------------------------------------------------


def on_gpu(rounds: int) -> dict[str, Any]:
    """BERT base in bf16 at 150 and 512 tokens, eager and compiled: tokens/s, share of the matrix rate, memory."""
    peak = common.matmul_peak(torch.bfloat16, "cuda")
    results: dict[str, Any] = {"matmul_peak_gflops": peak}
    for name, case in GPU_CASES.items():
        made = common.random_rows(case.lengths(case.rows * 30, SEED), case.vocabulary, SEED)
        sizes = np.asarray([len(row) + 2 for row in made])
        per_token = common.flops_per_step(case.config(), sizes).total / sizes.sum()
        for compiled in (False, True):
            ours = Ours(case, made, "cuda", multiple=8)
            if compiled:
                ours.model = torch.compile(ours.objective)  # type: ignore[assignment]
            ours.run(10)
            torch.cuda.reset_peak_memory_stats()
            speeds = []
            for _ in range(rounds):
                torch.cuda.synchronize()
                started = time.perf_counter()
                tokens, _, _ = ours.run(5)
                torch.cuda.synchronize()
                speeds.append(tokens / (time.perf_counter() - started))
            speed = statistics.median(speeds)
            results[f"{name}, {'compiled' if compiled else 'eager'}"] = {
                "tokens_per_second": speed,
                "share_of_peak": speed * per_token / 1e9 / peak,
                "rows": case.rows,
                "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
            }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(CASES), help="cases to run; all if left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpu", action="store_true", help="measure on the GPU instead")
    parser.add_argument("--json", help="file to write")
    arguments = parser.parse_args()
    if arguments.gpu:
        results: dict[str, Any] = on_gpu(arguments.rounds)
        rows = [
            [
                name,
                f"{r['tokens_per_second']:,.0f}",
                f"{r['share_of_peak']:.0%}",
                f"{r['peak_memory_gib']:.1f}",
            ]
            for name, r in results.items()
            if isinstance(r, dict)
        ]
        common.print_table("BERT base, bf16", ["configuration", "tokens/s", "of peak", "GiB"], rows)
    else:
        results = {name: compare(CASES[name], arguments.rounds) for name in arguments.only or CASES}
        results_memory = memory()
        common.print_table(
            "RetroMAE pre-training, tokens/s",
            ["configuration", "textbook", "ours", "step", "whole loop", "masks", "waste", "of peak"],
            [
                [
                    name,
                    f"{r['textbook']['step_tokens_per_second']:,.0f}",
                    f"{r['ours']['step_tokens_per_second']:,.0f}",
                    f"{r['step_ratio']:.1f}x",
                    f"{r['loop_ratio']:.1f}x",
                    f"{r['mask_ratio']:.0f}x",
                    f"{r['padding_waste']:.1%}",
                    f"{r['share_of_peak']:.0%}",
                ]
                for name, r in results.items()
            ],
        )
        print("peak memory of 32 x 512:", {name: round(value, 1) for name, value in results_memory.items()})
        results = {"cases": results, "memory": results_memory}
    if arguments.json:
        common.write_json(arguments.json, results, seed=SEED)


if __name__ == "__main__":
    common.script(main)
