"""What an objective says that its step costs, against torch's own count of a real forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from retromae.models.backbone import Backbone
from retromae.objectives import Batch, Objective, Vocabulary, available, load
from retromae.objectives.laprador import LaPraDoR
from tiny import FAMILIES

ROWS, LENGTH = 12, 48


def make(folder: Path, name: str, **settings: Any) -> Objective:
    backbone = Backbone.open(folder, dropout=0.0)
    ordinary = torch.arange(backbone.vocab_size) >= 5
    cls = load(name)
    objective = cls(backbone, cls.Config(**settings), Vocabulary(4, torch.ones_like(ordinary), ordinary), 3)
    objective.loss_backend = "plain"  # ours writes into its buffers, which the counter does not see
    return objective


def full_batch(rows: int, length: int) -> Batch:
    ids = torch.randint(5, 150, (rows, length), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[:, -1] = 2, 3
    numbers = torch.arange(rows)
    return Batch(ids, torch.ones_like(ids), numbers, torch.zeros_like(numbers), 1.0)


def counted(objective: Objective, rows: int = ROWS, length: int = LENGTH) -> float:
    """The products of one step, where two towers take turns the mean of both, with an empty pool."""
    if not isinstance(objective, LaPraDoR):
        return counted_once(objective, rows, length)
    turns = []
    for steps in (1, objective.settings.turn_steps + 1):
        objective.steps.fill_(steps)
        objective.pool.empty()
        turns.append(counted_once(objective, rows, length))
    return sum(turns) / len(turns)


def counted_once(objective: Objective, rows: int, length: int) -> float:
    """Matrix products of one step, with those of attention taken apart so that they can be seen."""
    batch = full_batch(rows, length)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        objective(batch)["loss"].backward()
    return float(counter.get_total_flops())


def unseen(objective: Objective, rows: int = ROWS) -> float:
    """The bag of words goes back by `embedding_bag`, which the counter does not see: 2 · 2 · rows · V · e.
    And what a pool that fills during a turn adds to the comparisons."""
    if isinstance(objective, LaPraDoR):
        pooled = sum(min(rows * step, objective.settings.pool_size) for step in range(100)) / 100
        return 3 * 2.0 * rows * pooled * objective.backbone.hidden_size
    if not hasattr(objective, "bag_of_words"):
        return 0.0
    return 4.0 * rows * objective.backbone.head_weight.numel()


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_step_costs_what_the_objective_says(
    family: str, name: str, tiny_folder: Callable[[str], Path]
) -> None:
    objective = make(tiny_folder(family), name)
    assert objective.flops(ROWS, LENGTH) == pytest.approx(counted(objective) + unseen(objective), rel=0.02)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mlm", {"encoder_mlm_probability": 1.0}),
        ("retromae", {"decoder": "basic", "decoder_layers": 3, "decoder_mlm_probability": 0.7}),
        ("retromae", {"decoded_share": 0.25}),
        ("dupmae", {"decoder": "basic"}),
        ("condenser", {"head_layers": 5, "early_layers": 0}),
        ("seed", {"decoder_layers": 1}),
        ("tsdae", {"deletion_ratio": 0.1, "decoder_layers": 4}),
        ("cocondenser", {"head_layers": 1}),
        ("simcse", {"mlm_weight": 0.1, "encoder_mlm_probability": 0.5}),
        ("diffcse", {"mlm_weight": 0.1, "replaced_probability": 0.6}),
        ("laprador", {"query_words": 8, "pool_size": 0}),
    ],
    ids=str,
)
def test_settings_change_the_cost(
    name: str, settings: dict[str, Any], tiny_folder: Callable[[str], Path]
) -> None:
    objective = make(tiny_folder("bert"), name, **settings)
    assert objective.flops(ROWS, LENGTH) == pytest.approx(counted(objective) + unseen(objective), rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_every_family_are_counted(family: str, tiny_folder: Callable[[str], Path]) -> None:
    """All words masked: nothing is left to chance, so the count is exact but for the positions' projection."""
    objective = make(tiny_folder(family), "retromae", encoder_mlm_probability=1.0)
    assert objective.flops(ROWS, LENGTH) == pytest.approx(counted(objective), rel=0.003)


def test_the_cost_grows_with_rows_and_faster_with_length(tiny_folder: Callable[[str], Path]) -> None:
    objective = make(tiny_folder("bert"), "retromae")
    assert objective.flops(20, 32) == pytest.approx(2 * objective.flops(10, 32))
    assert objective.flops(10, 64) > 2.05 * objective.flops(10, 32)


def test_the_chunked_loss_computes_the_same_products(tiny_folder: Callable[[str], Path]) -> None:
    """In its own order: three products of (labels, d) and (d, V), of which the counter misses the last one."""
    objective = make(tiny_folder("bert"), "mlm", encoder_mlm_probability=1.0)
    plain = counted(objective)
    objective.loss_backend = "chunked"
    missed = 2 * ROWS * (LENGTH - 2) * objective.backbone.head_weight.numel()
    assert counted(objective) + missed == pytest.approx(plain)
