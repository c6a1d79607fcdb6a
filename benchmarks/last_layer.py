"""The last layer only at [CLS] and the masked words against all of it: a RetroMAE step, and the encoder alone.

    python -m benchmarks.last_layer --json benchmarks/results/last-layer-cpu.json
    python -m benchmarks.last_layer --quick

Both sides are one model on the same batches with the same masks, in one process, in turn, with dropout 0. A step is
forward, backward, clipping and update; the encoder alone is forward and backward from the states that a step reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks import common
from benchmarks.loop import SEED, Case, Loop
from benchmarks.pretrain import CASES
from retromae.models import flops
from retromae.objectives import Batch, Drawn
from retromae.training.chunks import Chunk

WHOLE, NEEDED = "whole", "where needed"
CHOSEN = ("4x256 8k, MS MARCO-like", "6x384 30k, MS MARCO-like")


class Sides:
    """The same work on a few batches, with the last layer whole or where it is needed."""

    def __init__(self, case: Case, batches: int) -> None:
        rows = common.random_rows(case.lengths(case.rows * 30, SEED), case.vocabulary, SEED)
        self.ours = Loop(case, rows)
        self.objective = self.ours.objective
        drawn = [chunk for _ in range(batches) for chunk in self.ours.drawn()]
        self.batches = [(chunk.batch, chunk.drawn) for chunk in drawn]

    def of(self, work: Callable[[Batch, Drawn], None]) -> dict[str, Callable[[], None]]:
        def side(leaves_out: bool) -> Callable[[], None]:
            def run() -> None:
                self.objective.backbone.last.leaves_out = leaves_out
                for batch, drawn in self.batches:
                    work(batch, drawn)

            return run

        return {WHOLE: side(False), NEEDED: side(True)}

    def step(self, batch: Batch, drawn: Drawn) -> None:
        self.ours.learn([Chunk(batch, drawn, 0, 0)])
        self.ours.update()

    def encoder(self, batch: Batch, drawn: Drawn) -> None:
        hidden = self.objective.read(batch, drawn)
        (hidden[drawn.tensors["labelled"]].sum() + hidden[:, 0].sum()).backward()
        self.objective.zero_grad()

    def counted(self, leaves_out: bool) -> dict[str, float]:
        """Operations of a round, padding included."""
        backbone = self.objective.backbone
        backbone.last.leaves_out = leaves_out
        shapes = [tuple(batch.token_ids.shape) for batch, _ in self.batches]
        needed = [
            int(drawn.tensors["labelled"].sum()) + len(batch.token_ids) for batch, drawn in self.batches
        ]
        encoder = [flops.encoder(backbone, *shape, number) for shape, number in zip(shapes, needed)]
        return {
            "step": sum(self.objective.flops(*shape) for shape in shapes),
            "encoder": flops.TRAINING * sum(encoder),
        }


def compare(case: Case, batches: int, rounds: int) -> dict[str, Any]:
    """Of a step and of the encoder alone: tokens/s of both sides, the ratios of their times and operations."""
    torch.manual_seed(SEED)
    sides = Sides(case, batches)
    tokens = sum(int(batch.attention_mask.sum()) for batch, _ in sides.batches)
    whole, left = sides.counted(False), sides.counted(True)
    results: dict[str, Any] = {"tokens": tokens}
    for name, work in (("step", sides.step), ("encoder", sides.encoder)):
        timings = common.alternate(sides.of(work), rounds)
        results[name] = {
            "seconds": timings,
            "tokens_per_second": {side: tokens / timing.median for side, timing in timings.items()},
            "time_ratio": timings[WHOLE].median / timings[NEEDED].median,
            "operations_ratio": whole[name] / left[name],
        }
    return results


def report(results: dict[str, dict[str, Any]]) -> None:
    for part in ("step", "encoder"):
        rows = [
            [
                name,
                *(f"{result[part]['tokens_per_second'][side]:,.0f}" for side in (WHOLE, NEEDED)),
                f"{result[part]['time_ratio']:.3f}x",
                f"{result[part]['operations_ratio']:.3f}x",
            ]
            for name, result in results.items()
        ]
        columns = ["configuration", f"{WHOLE}, tokens/s", f"{NEEDED}, tokens/s", "faster", "operations"]
        common.print_table(f"the last layer: {part}, forward and backward", columns, rows)


def main() -> None:
    parser = common.case_arguments(__doc__, CASES, rounds=9)
    options = parser.parse_args()
    chosen = {name: CASES[name] for name in options.only or CHOSEN}
    if options.quick:
        name, case = next(iter(chosen.items()))
        chosen = {f"{name}, 8 rows": replace(case, rows=8)}
        options.rounds, options.batches = 3, 1
    results = {name: compare(case, options.batches, options.rounds) for name, case in chosen.items()}
    report(results)
    if options.json:
        common.write_json(options.json, results, seed=SEED)


if __name__ == "__main__":
    common.script(main)
