"""The report of what a step needs and takes: nothing is counted twice or lost."""

from __future__ import annotations

import pytest
import torch

from benchmarks import common
from benchmarks.loop import Case
from benchmarks.roofline import (
    ATTENTION,
    DECODER,
    ENCODER,
    OPTIMISER,
    PARTS,
    VOCABULARY,
    Step,
    needs,
    shares_of_time,
)


@pytest.fixture(scope="module")
def step() -> Step:
    case = Case(2, 64, 400, lambda n, seed: common.blocks(n, 24), 6)
    return Step(case, "cpu", batches=1, chunk_tokens=80)


def test_the_parts_add_up_to_the_step(step: Step) -> None:
    counted = needs(step.objective, [24] * 6)
    assert sum(need.flops for need in counted.values()) == pytest.approx(step.objective.flops(6, 24))
    assert counted[ATTENTION[ENCODER]].flops == 3 * 2 * 6 * 4 * 24 * 24 * 64
    parameters = sum(parameter.numel() for parameter in step.objective.parameters())
    assert sum(counted[part].bytes for part in (ENCODER, DECODER, VOCABULARY)) == 3 * 4 * parameters
    assert counted[OPTIMISER].bytes == 10 * 4 * parameters
    assert needs(step.objective, [24, 9])[ENCODER].flops < needs(step.objective, [24, 24])[ENCODER].flops


def test_where_the_time_goes(step: Step) -> None:
    assert len(step.batches[0]) == 2 and step.lengths == [[24] * 6]
    before = [parameter.detach().clone() for parameter in step.objective.parameters()]
    shares = shares_of_time(step.run, "cpu")
    assert set(shares) == set(PARTS) and sum(shares.values()) == pytest.approx(1.0)
    assert all(share > 0 for share in shares.values())
    assert shares["other"] < 0.2
    assert not all(torch.equal(a, b) for a, b in zip(before, step.objective.parameters()))
