"""Pre-training speed and memory: this library against the textbook implementation, in one process, in turn.

    python -m benchmarks.pretrain --json benchmarks/results/pretrain-cpu.json
    python -m benchmarks.pretrain --only "4x256 8k, MS MARCO-like" --rounds 3

Both sides train RetroMAE with enhanced decoding on rows of the same lengths, from the same kind of weights, with the
same dropout (none), the same clipping and AdamW. A step is forward, backward, clipping and update; the loop adds what
comes before it: batching, padding and masks. Tokens are those of the rows, never padding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch

from benchmarks import common
from benchmarks.loop import SEED, Case, Loop
from benchmarks.textbook import (
    TextbookCollator,
    TextbookRetroMAE,
    random_batches,
    textbook_optimizer,
    textbook_step,
)

CASES = {
    "4x256 8k, MS MARCO-like": Case(4, 256, 8192, common.msmarco_like, 32, 3, 6),
    "4x256 8k, mixed 16-512": Case(4, 256, 8192, common.mixed, 32, 1, 6),
    "6x384 30k, MS MARCO-like": Case(6, 384, 30522, common.msmarco_like, 32, 1, 3),
    "6x384 30k, mixed 16-512": Case(6, 384, 30522, common.mixed, 16, 1, 4),
    "6x384 30k, 512 blocks": Case(6, 384, 30522, lambda n, seed: common.blocks(n), 6, 1, 2),
    "12x768 30k, MS MARCO-like": Case(12, 768, 30522, common.msmarco_like, 32, 1, 1),
}


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
    textbook, ours = Textbook(case, rows), Loop(case, rows)
    textbook.run(1), ours.run(1)  # warm-up
    measured: dict[str, list[tuple[int, float, float]]] = {"textbook": [], "ours": []}
    peak = 0.0
    for _ in range(rounds):
        peak = max(peak, common.matmul_peak(torch.float32))  # a shared machine has slow moments
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
    Loop(MEMORY_CASE, common.random_rows(common.blocks(32), MEMORY_CASE.vocabulary, SEED)).run(2)


def _our_memory_in_chunks() -> None:
    rows = common.random_rows(common.blocks(32), MEMORY_CASE.vocabulary, SEED)
    Loop(MEMORY_CASE, rows, chunk_tokens=MEMORY_CHUNK).run(2)


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(CASES), help="cases to run; all if left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file to write")
    arguments = parser.parse_args()
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
