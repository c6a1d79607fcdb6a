"""Pre-training on a GPU: BERT base in bfloat16, plain and compiled, in one process, in turn; then a real run.

    python -m benchmarks.gpu --json benchmarks/results/pretrain-gpu.json
    python -m benchmarks.gpu --only "blocks of 512" --rounds 3

`step` is forward, backward, clipping and AdamW with the draws beside them, batches made on the way. `run` is `retromae
pretrain` itself, from rows on disk, by the speed that it logs. Tokens are those of the rows, never padding. The share
is of the matrix products' rate that the same process measured, for the operations that the objective says it must do
(`Objective.flops`), row by row; what an implementation computes beyond these counts as lost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from benchmarks.folders import made_up_folder
from benchmarks.loop import SEED, Case, Loop
from retromae.core.errors import UserError
from retromae.training.batches import Padding, RankSampler, RowBatches, loader
from retromae.training.pretrain import pretrain
from retromae.training.settings import resolve

GPU_CASES = {
    "at most 150 tokens, MS MARCO-like": Case(12, 768, 30522, common.msmarco_like, 1024),
    "blocks of 512 tokens": Case(12, 768, 30522, lambda n, seed: common.blocks(n), 160),
}
# objective, dropout, compiled
SIDES = {
    "RetroMAE, plain": ("retromae", 0.0, False),
    "RetroMAE": ("retromae", 0.0, True),
    "RetroMAE, dropout 0.1": ("retromae", 0.1, True),
    "DupMAE": ("dupmae", 0.0, True),
    "MLM": ("mlm", 0.0, True),
}


class Side:
    """One objective on the rows of a case."""

    def __init__(
        self, case: Case, rows: list[list[int]], objective: str, dropout: float, compiled: bool
    ) -> None:
        started = time.perf_counter()
        self.loop = Loop(
            case, rows, "cuda", objective=objective, dropout=dropout, multiple=8, compiled=compiled
        )
        self.loop.train(2)
        torch.cuda.synchronize()
        self.seconds_to_first_steps = time.perf_counter() - started
        self.speeds: list[float] = []
        self.peak = 0

    def round(self, batches: int) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        tokens = self.loop.train(batches)
        torch.cuda.synchronize()
        self.speeds.append(tokens / (time.perf_counter() - started))
        self.peak = max(self.peak, torch.cuda.max_memory_allocated())


def operations(side: Side, lengths: np.ndarray) -> float:
    """Of one token, on average, that the objective must do."""
    sizes, numbers = np.unique(lengths, return_counts=True)
    total = sum(side.loop.objective.flops(int(n), int(size)) for size, n in zip(sizes, numbers))
    return float(total / lengths.sum())


def measure(case: Case, peak_gflops: float, chosen: list[str], rounds: int, batches: int) -> dict[str, Any]:
    rows = common.random_rows(case.lengths(case.rows * 12, SEED), case.vocabulary, SEED)
    lengths = np.asarray([len(row) + 2 for row in rows])
    sides = {name: Side(case, rows, *SIDES[name]) for name in chosen}
    for side in sides.values():
        side.round(batches)  # not counted: the shapes that are still new
        side.speeds.clear()
    for number in range(rounds):
        for name in chosen if number % 2 == 0 else chosen[::-1]:
            sides[name].round(batches)
    found = {}
    for name, side in sides.items():
        speed, per_token = statistics.median(side.speeds), operations(side, lengths)
        found[name] = {
            "tokens_per_second": speed,
            "rounds": side.speeds,
            "gflop_per_token": per_token / 1e9,
            "share_of_peak": speed * per_token / 1e9 / peak_gflops,
            "peak_memory_gib": side.peak / 2**30,
            "seconds_to_first_steps": side.seconds_to_first_steps,
            "rows": case.rows,
            "padding": side.loop.waste,
        }
    return found


# -- a real run ---------------------------------------------------------------------------------------------------


def real_run(case: Case, steps: int, name: str) -> dict[str, float]:
    """The speed that `retromae pretrain` logs, from the second half of its log."""
    objective, dropout, compiled = SIDES[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        values = {
            **made_up_folder(case, folder, case.rows * (steps + 4)),
            "output_dir": str(folder / "run"),
            "objective": objective,
            "dropout": dropout,
            "torch_compile": compiled,
            "bf16": True,
            "max_steps": steps,
            "per_device_train_batch_size": case.rows,
            "logging_steps": max(1, steps // 8),
            "save_steps": 10**6,
            "holdout": 0.0,
            "keep_best": False,
        }
        run = pretrain(resolve(values)).output_dir
        logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [record["tokens_per_second"] for record in logged if "tokens_per_second" in record]
    return {"tokens_per_second": statistics.median(speeds[len(speeds) // 2 :]), "steps": steps}


def loader_speed(case: Case, batches: int = 60) -> float:
    """Tokens per second that the data loader gives, as in a run, while nothing is done with them."""
    rows = common.random_rows(case.lengths(case.rows * 12, SEED), case.vocabulary, SEED)
    plan = Loop(replace_hidden(case), rows, "cpu", multiple=8)
    padding: Padding = plan.dataset.padding
    dataset = RowBatches(plan.dataset.rows, padding, case.vocabulary)
    sampler = RankSampler(plan.plan, 0, 1, 0, batches + 8, None)
    given = iter(loader(dataset, sampler, workers=1, pin_memory=torch.cuda.is_available()))
    for _ in range(8):  # what was made while the worker started
        next(given)
    started = time.perf_counter()
    tokens = sum(int(next(given).attention_mask.sum()) for _ in range(batches))
    return tokens / (time.perf_counter() - started)


def replace_hidden(case: Case) -> Case:
    """The same rows for a model that is nothing to make."""
    return Case(1, 64, case.vocabulary, case.lengths, case.rows)


# -- the largest batch --------------------------------------------------------------------------------------------


def largest_batch(case: Case, name: str) -> dict[str, float]:
    """Rows of one forward pass that fit, to about a tenth, and the memory that they take."""
    fits, memory, rows = 0, 0.0, case.rows
    while rows > fits * 1.1:
        try:
            trial = Case(case.layers, case.hidden, case.vocabulary, case.lengths, rows)
            made = common.random_rows(case.lengths(rows * 2, SEED), case.vocabulary, SEED)
            side = Side(trial, made, *SIDES[name])
            side.round(1)
            doubling = rows == fits * 2 or not fits
            fits, memory = rows, side.peak / 2**30
            rows = rows * 2 if doubling else rows + rows // 8
        except torch.cuda.OutOfMemoryError:
            rows = (fits + rows) // 2
        side = None
        torch.cuda.empty_cache()
    return {"rows": fits, "peak_memory_gib": memory}


def main() -> None:
    parser = common.case_arguments(__doc__, GPU_CASES, rounds=5)
    parser.set_defaults(batches=6)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--steps", type=int, default=64, help="of the real run; 0: none")
    parser.add_argument("--largest", action="store_true", help="look for the largest batch too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise UserError("this benchmark needs a GPU; benchmarks.pretrain measures a CPU.")
    run(options)


def run(options: argparse.Namespace) -> None:
    peak = common.matmul_peak(torch.bfloat16, "cuda")
    results: dict[str, Any] = {"matmul_bf16_gflops": peak, "cases": {}}
    for name in options.only or GPU_CASES:
        case = GPU_CASES[name]
        found = measure(case, peak, options.sides, options.rounds, options.batches)
        results["cases"][name] = found
        print_case(name, found)
        found["loader"] = {"tokens_per_second": loader_speed(case)}
        print(f"loader alone: {found['loader']['tokens_per_second']:,.0f} tokens/s", flush=True)
        if options.steps:
            found["run"] = real_run(case, options.steps, "RetroMAE")
            print(f"retromae pretrain: {found['run']['tokens_per_second']:,.0f} tokens/s", flush=True)
        if options.largest:
            found["largest"] = largest_batch(case, "RetroMAE")
            print(f"largest batch: {found['largest']}", flush=True)
        if options.json:
            common.write_json(options.json, results, seed=SEED)


def print_case(name: str, found: dict[str, Any]) -> None:
    common.print_table(
        f"BERT base, bf16, {name}",
        ["", "tokens/s", "GFLOP a token", "of the matrix rate", "GiB", "s to first steps"],
        [
            [
                side,
                f"{r['tokens_per_second']:,.0f}",
                f"{r['gflop_per_token']:.3f}",
                f"{r['share_of_peak']:.1%}",
                f"{r['peak_memory_gib']:.1f}",
                f"{r['seconds_to_first_steps']:.0f}",
            ]
            for side, r in found.items()
        ],
    )


if __name__ == "__main__":
    common.script(main)
