"""What the papers' pre-trainings need on paper: operations, counted by the code, and hours at a rate that you name.

    python -m benchmarks.published --rate 989 --json benchmarks/results/published.json

BERT base, bf16. `--rate` is the matrix rate of one device in TFLOP/s, measured by `benchmarks.roofline` or from its
data sheet; `--shares` are shares of it that training might reach. Nothing here is measured, and several devices count
as many times one: the exchange of gradients, evaluation and reading are left out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig

from benchmarks import common
from retromae.core.config import read_recipe
from retromae.models.backbone import Backbone
from retromae.objectives import Vocabulary, load

DEVICES = (1, 8, 64)
OBJECTIVES = ("mlm", "condenser", "cocondenser", "simcse", "retromae", "dupmae")


@dataclass(frozen=True)
class Training:
    """One published pre-training: its rows, and how much text it reads."""

    name: str
    rows: int  # of one device's batch
    length: int
    tokens: float

    @classmethod
    def of(cls, name: str, recipe: str, epochs: int, rows: int, length: int) -> Training:
        """The tokens of one epoch are those that the recipe expects."""
        expected = read_recipe(RECIPES / recipe)["expected"]["rows"]["tokens"]
        return cls(name, rows, length, epochs * float(expected))


RECIPES = Path(__file__).parents[1] / "recipes" / "published"
TRAININGS = (
    Training.of("Wikipedia and BookCorpus, 8 epochs", "table1.yaml", 8, 32, 512),
    Training.of("MS MARCO, 20 epochs", "table4.yaml", 20, 128, 150),
)


def per_token(backbone: Backbone, objective: str, training: Training) -> float:
    """Operations of a step for each token, with full rows."""
    cls = load(objective)
    ordinary = torch.ones(backbone.vocab_size, dtype=torch.bool)
    made = cls(backbone, cls.Config(), Vocabulary(103, ordinary, ordinary))
    return made.flops(training.rows, training.length) / (training.rows * training.length)


def measure(rate: float, shares: list[float]) -> list[dict[str, Any]]:
    backbone = Backbone.from_config(BertConfig(), dropout=0.0)
    found = []
    for training in TRAININGS:
        for objective in OBJECTIVES:
            each = per_token(backbone, objective, training)
            hours = {
                f"{share:.0%}": {
                    str(devices): each * training.tokens / (share * rate * 1e12 * devices) / 3600
                    for devices in DEVICES
                }
                for share in shares
            }
            found.append(
                {
                    "training": training.name,
                    "objective": objective,
                    "gflop_per_token": each / 1e9,
                    "exaflop": each * training.tokens / 1e18,
                    "tokens_per_second": {f"{share:.0%}": share * rate * 1e12 / each for share in shares},
                    "hours": hours,
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, required=True, help="matrix rate of one device, TFLOP/s")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.35, 0.45])
    parser.add_argument("--json", help="write the figures here")
    options = parser.parse_args()
    found = measure(options.rate, options.shares)
    columns = ["training", "objective", "GFLOP/token", "EFLOP"]
    columns += [f"hours at {share:.0%}: {', '.join(map(str, DEVICES))} devices" for share in options.shares]
    rows = [
        [
            entry["training"],
            entry["objective"],
            f"{entry['gflop_per_token']:.2f}",
            f"{entry['exaflop']:.1f}",
            *(", ".join(f"{hours:.1f}" for hours in each.values()) for each in entry["hours"].values()),
        ]
        for entry in found
    ]
    common.print_table(f"on paper, at {options.rate:g} TFLOP/s a device", columns, rows)
    if options.json:
        common.write_json(options.json, {"rate_tflops": options.rate, "trainings": found}, seed=0)


if __name__ == "__main__":
    common.script(main)
