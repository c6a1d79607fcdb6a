"""How close pre-training comes to what this machine can do, part by part of a step.

    python -m benchmarks.roofline --json benchmarks/results/roofline-cpu.json
    python -m benchmarks.roofline --only "4x256 8k, MS MARCO-like" --rounds 3
    python -m benchmarks.roofline --quick

The machine's ceilings are measured in the same process: a large matrix product and a copy in memory. What a RetroMAE
step *must* do is counted: the operations of its matrix products (`retromae.models.flops`), row by row, so that padding
counts as waste, and the bytes of its parameters: each read forward and backward, its gradient written, and what
clipping and AdamW read and write. Activations count no bytes, since a fused kernel could keep them on the chip. The
needed time of a part is the longer of both, at the ceilings; the shares of the ceiling are therefore lower bounds.

The step is timed without the profiler; where its time goes is the profiler's proportion, backward work being charged
to the part whose forward work it belongs to. On a GPU it is the model in bf16, and kernels are what is profiled.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import common
from benchmarks.gpu import GPU_CASES
from benchmarks.loop import SEED, Case, Loop
from benchmarks.pretrain import CASES
from retromae.models import flops
from retromae.objectives.retromae import RetroMAE

MASKS, ENCODER, ENCODER_ATTENTION, DECODER, DECODER_ATTENTION, VOCABULARY, GRADIENTS, OPTIMISER, OTHER = (
    PARTS
) = (
    "masks",
    "encoder",
    "encoder attention",
    "decoder",
    "decoder attention",
    "vocabulary",
    "adding gradients",
    "clipping and AdamW",
    "other",
)
ATTENTION = {ENCODER: ENCODER_ATTENTION, DECODER: DECODER_ATTENTION}


@dataclass(frozen=True)
class Ceilings:
    """What this machine reaches in practice."""

    fp32_gflops: float
    bf16_gflops: float
    copy_gb_per_second: float  # bytes read and bytes written

    @classmethod
    def measure(cls, device: str, repeats: int) -> Ceilings:
        emulated = device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return cls(
            common.matmul_peak(torch.float32, device, repeats),
            common.matmul_peak(
                torch.bfloat16, device, repeats, size=256 if emulated else None
            ),  # slow: a small one
            copy_bandwidth(device, repeats),
        )


def copy_bandwidth(device: str, repeats: int) -> float:
    """GB/s of the fastest of some copies of a tensor that no cache holds, reading and writing."""
    source = torch.ones(2**30 if device == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    fastest = common.median_of(lambda: target.copy_(source), repeats, warmup=2).low
    return 2 * source.numel() * source.element_size() / fastest / 1e9


# -- what must be done --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """Of one part of a step."""

    flops: float = 0.0
    bytes: float = 0.0

    def seconds(self, gflops: float, gb_per_second: float) -> float:
        return max(self.flops / gflops, self.bytes / gb_per_second) / 1e9


def needs(objective: RetroMAE, lengths: Iterable[int]) -> dict[str, Need]:
    """Of one step on rows of these lengths, special tokens included: by part, where there is anything to count."""
    backbone, settings = objective.backbone, objective.settings
    sums: defaultdict[str, float] = defaultdict(float)
    for length, rows in Counter(lengths).items():
        attention = flops.attention(backbone.style, rows, length)
        ordinary = flops.ordinary_tokens(rows, length)
        read = objective.needed_count(rows, length)
        sums[ENCODER] += flops.encoder(backbone, rows, length, read) - backbone.num_layers * attention
        sums[ENCODER_ATTENTION] += backbone.num_layers * attention
        sums[DECODER] += (
            flops.layers(backbone.style, settings.decoder_layers, rows, length, asked=ordinary) - attention
        )
        sums[DECODER_ATTENTION] += attention
        sums[VOCABULARY] += flops.vocabulary(backbone, (settings.encoder_mlm_probability + 1.0) * ordinary)
    decoder, words = _size(objective.decoder), backbone.head_weight.numel()
    total = _size(objective)
    moved = {
        ENCODER: 3 * (total - decoder - words),
        DECODER: 3 * decoder,
        VOCABULARY: 3 * words,
        OPTIMISER: (3 + 7)
        * total,  # the norm reads, scaling reads and writes; AdamW reads four and writes three
    }
    return {part: Need(flops.TRAINING * sums[part], 4.0 * moved.get(part, 0)) for part in {**sums, **moved}}


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# -- what it takes ------------------------------------------------------------------------------------------------


class Step:
    """Training steps on a few batches, the parts of one named for the profiler."""

    def __init__(
        self, case: Case, device: str, batches: int, chunk_tokens: int, compiled: bool = False
    ) -> None:
        made = common.random_rows(case.lengths(case.rows * 30, SEED), case.vocabulary, SEED)
        multiple = 8 if device == "cuda" else 1
        self.ours = Loop(case, made, device, multiple=multiple, chunk_tokens=chunk_tokens, compiled=compiled)
        self.objective = objective = self.ours.objective
        self.batches = [self.ours.parts() for _ in range(batches)]
        self.lengths = [
            torch.cat([part.attention_mask.sum(dim=1) for part in batch]).tolist() for batch in self.batches
        ]
        _name(objective.backbone, "encode", ENCODER)
        _name(objective.backbone, "token_embeddings", DECODER)
        _name(objective.decoder, "forward", DECODER)
        _name(objective, "draw_ahead", MASKS)
        _name(objective, "visible", MASKS)
        _name(objective, "vocabulary_losses", VOCABULARY)
        _name(self.ours, "update", OPTIMISER)

    def run(self) -> None:
        for batch in self.batches:
            self.ours.learn([self.ours.draw(part) for part in batch])
            self.ours.update()


def _name(owner: Any, method: str, part: str) -> None:
    """Let the profiler know a method's calls as `part`."""
    plain: Callable[..., Any] = getattr(owner, method)

    def named(*args: Any, **kwargs: Any) -> Any:
        with record_function(part):
            return plain(*args, **kwargs)

    setattr(owner, method, named)


def shares_of_time(run: Callable[[], None], device: str) -> dict[str, float]:
    """Where the time of `run` goes, by part; the shares add up to 1."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        run()
        if device == "cuda":
            torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type.name == "CPU"]
    # A backward operation has the number of the forward one that made it: the last one recorded under that number,
    # since whatever makes nothing to go back through does not count on.
    made = [event for event in events if event.sequence_nr >= 0 and not _goes_back(event)]
    made.sort(key=lambda event: event.time_range.start)
    forward = {event.sequence_nr: _forward_part(event) or OTHER for event in made}
    times: defaultdict[str, float] = defaultdict(float)
    for event in events:
        part = _forward_part(event) or _backward_part(event, forward)
        times[part] += event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
    total = sum(times.values())
    return {part: times[part] / total for part in PARTS}


def _forward_part(event: Any) -> str | None:
    """The part that an event was recorded under; attention is told by the name of its kernel."""
    attention = False
    while event is not None:
        attention |= "scaled_dot_product" in event.name
        if event.name in PARTS:
            return ATTENTION.get(event.name, event.name) if attention else str(event.name)
        event = event.cpu_parent
    return None


def _backward_part(event: Any, forward: Mapping[int, str]) -> str:
    while event is not None:
        if "AccumulateGrad" in event.name:
            return GRADIENTS
        if _goes_back(event):
            return forward.get(event.sequence_nr, OTHER)
        event = event.cpu_parent
    return OTHER


def _goes_back(event: Any) -> bool:
    """Is it autograd's own record of a step of the backward pass? Most of these bear a number; sums bear none."""
    return event.scope == 1 or str(event.name).startswith("autograd::engine::evaluate_function")


# -- the report ---------------------------------------------------------------------------------------------------


def measure(case: Case, device: str, ceilings: Ceilings, options: argparse.Namespace) -> dict[str, Any]:
    step = Step(case, device, options.batches, options.chunk_tokens, options.compiled)
    timing = common.median_of(step.run, options.rounds, warmup=3 if options.compiled else 1)
    shares = shares_of_time(step.run, device)
    counted: defaultdict[str, float] = defaultdict(float)
    gflops = ceilings.bf16_gflops if device == "cuda" else ceilings.fp32_gflops
    needed: defaultdict[str, float] = defaultdict(float)
    for lengths in step.lengths:
        for part, need in needs(step.objective, lengths).items():
            needed[part] += need.seconds(gflops, ceilings.copy_gb_per_second)
            counted[part] += need.flops
    tokens = sum(map(sum, step.lengths))
    return {
        "tokens": tokens,
        "tokens_per_second": tokens / timing.median,
        "seconds": timing,
        "needed_seconds": sum(needed.values()),
        "share_of_ceiling": sum(needed.values()) / timing.median,
        "parts": {
            part: {
                "gflop": counted[part] / 1e9,
                "needed_seconds": needed[part],
                "measured_seconds": shares[part] * timing.median,
            }
            for part in PARTS
        },
    }


def report(ceilings: Ceilings, results: Mapping[str, dict[str, Any]]) -> None:
    print(
        f"matrix products: {ceilings.fp32_gflops:,.0f} GFLOP/s fp32, {ceilings.bf16_gflops:,.1f} bf16; "
        f"copy: {ceilings.copy_gb_per_second:,.1f} GB/s"
    )
    common.print_table(
        "RetroMAE steps: what they need at the ceilings, and what they take",
        ["configuration", "tokens/s", "needed s", "measured s", "of the ceiling"],
        [
            [
                name,
                f"{r['tokens_per_second']:,.0f}",
                f"{r['needed_seconds']:.3f}",
                f"{r['seconds'].median:.3f}",
                f"{r['share_of_ceiling']:.0%}",
            ]
            for name, r in results.items()
        ],
    )
    for name, r in results.items():
        common.print_table(
            name,
            ["part", "GFLOP", "needed s", "measured s", "above need s", "share of step"],
            [
                [
                    part,
                    f"{p['gflop']:,.0f}",
                    f"{p['needed_seconds']:.3f}",
                    f"{p['measured_seconds']:.3f}",
                    f"{p['measured_seconds'] - p['needed_seconds']:.3f}",
                    f"{p['measured_seconds'] / r['seconds'].median:.1%}",
                ]
                for part, p in r["parts"].items()
            ],
        )


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = GPU_CASES if device == "cuda" else CASES
    parser = common.case_arguments(__doc__, cases, rounds=5)
    parser.add_argument(
        "--chunk-tokens", type=int, default=0, help="tokens of one forward pass, 0: whole batches"
    )
    parser.add_argument("--compiled", action="store_true", help="layers and losses compiled")
    options = parser.parse_args()
    chosen = {name: cases[name] for name in options.only or cases}
    if options.quick:
        name, case = next(iter(chosen.items()))
        chosen = {f"{name}, 8 rows": replace(case, rows=8)}
        options.rounds, options.batches = 1, 1
    ceilings = Ceilings.measure(device, 2 if options.quick else 10)
    results = {name: measure(case, device, ceilings, options) for name, case in chosen.items()}
    report(ceilings, results)
    if options.json:
        common.write_json(options.json, {"ceilings": ceilings, "cases": results}, seed=SEED)


if __name__ == "__main__":
    common.script(main)
