"""What a step of every objective costs, in time and in operations, against RetroMAE's on the same rows.

    python -m benchmarks.objectives --json benchmarks/results/objectives-cpu.json
    python -m benchmarks.objectives --quick

A step is forward, backward, clipping and AdamW with dropout 0.1, since some objectives are nothing without it; all
take the same batches, in one process, in turn. On a GPU it is bfloat16 and compiled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from benchmarks import common
from benchmarks.gpu import GPU_CASES
from benchmarks.loop import SEED, Case, Loop
from benchmarks.pretrain import CASES
from retromae.objectives import available
from retromae.objectives.contrast import Contrastive

REFERENCE = "retromae"
DROPOUT = 0.1
USUAL = ("4x256 8k, MS MARCO-like", "6x384 30k, MS MARCO-like")


class Side:
    """One objective, on the first batches of a case."""

    def __init__(self, case: Case, rows: list[list[int]], objective: str, device: str, batches: int) -> None:
        on_gpu = device == "cuda"
        self.loop = Loop(
            case,
            rows,
            device,
            objective=objective,
            dropout=DROPOUT,
            multiple=8 if on_gpu else 1,
            compiled=on_gpu,
        )
        self.parts = [self.loop.parts() for _ in range(batches)]

    def run(self) -> None:
        for parts in self.parts:
            if isinstance(self.loop.objective, Contrastive):
                self.loop.objective.begin_step()
            self.loop.learn([self.loop.draw(part) for part in parts])
            self.loop.update()

    @property
    def tokens(self) -> int:
        return sum(int(part.attention_mask.sum()) for parts in self.parts for part in parts)

    @property
    def operations(self) -> float:
        shapes = [part.token_ids.shape for parts in self.parts for part in parts]
        return sum(self.loop.objective.flops(rows, length) for rows, length in shapes)


def measure(case: Case, device: str, batches: int, rounds: int) -> dict[str, Any]:
    rows = common.random_rows(case.lengths(case.rows * 30, SEED), case.vocabulary, SEED)
    names = [REFERENCE, *(name for name in available() if name != REFERENCE)]
    sides = {name: Side(case, rows, name, device, batches) for name in names}
    timings = common.alternate({name: side.run for name, side in sides.items()}, rounds)
    reference, operations = timings[REFERENCE].median, sides[REFERENCE].operations
    return {
        name: {
            "tokens_per_second": side.tokens / timings[name].median,
            "seconds": timings[name],
            "time_ratio": timings[name].median / reference,
            "operations_ratio": side.operations / operations,
        }
        for name, side in sides.items()
    }


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = GPU_CASES if device == "cuda" else CASES
    options = common.case_arguments(__doc__, cases, rounds=5).parse_args()
    chosen = {
        name: cases[name] for name in options.only or [name for name in USUAL if name in cases] or cases
    }
    if options.quick:
        name, case = next(iter(chosen.items()))
        chosen = {f"{name}, 4 rows": replace(case, rows=4)}
        options.rounds, options.batches = 1, 1
    results = {name: measure(case, device, options.batches, options.rounds) for name, case in chosen.items()}
    for name, found in results.items():
        common.print_table(
            f"{name}: a step",
            ["objective", "tokens/s", "time / RetroMAE's", "operations / RetroMAE's"],
            [
                [
                    objective,
                    f"{r['tokens_per_second']:,.0f}",
                    f"{r['time_ratio']:.2f}",
                    f"{r['operations_ratio']:.2f}",
                ]
                for objective, r in found.items()
            ],
        )
    if options.json:
        common.write_json(options.json, results, seed=SEED)


if __name__ == "__main__":
    common.script(main)
