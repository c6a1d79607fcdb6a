"""Pieces that a GPU compiles are one graph each, and a handful of variants serve all shapes. Traced, not compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from retromae.core.draws import below_limit
from retromae.models import bag_of_words, losses
from retromae.models.backbone import Backbone
from retromae.models.layers import DecoderLayer
from retromae.objectives.retromae import visible_pairs

SHAPES = [(4, 16), (6, 24), (5, 40), (9, 8), (3, 33)]
WORDS, SIZE = 128, 32


def traced(function: Any, calls: list[tuple[Any, ...]]) -> int:
    """How many graphs the calls take; a break in one of them fails."""
    torch._dynamo.reset()
    counter = CompileCounter()
    one = torch.compile(function, backend=counter, dynamic=True, fullgraph=True)
    for arguments in calls:
        one(*arguments)
    return int(counter.frame_count)


def states(rows: int, length: int) -> Tensor:
    return torch.randn(rows, length, SIZE, requires_grad=True)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mpnet", "modernbert"])
def test_a_layer_of_every_usual_family(family: str, tiny_folder: Callable[[str], Path]) -> None:
    backbone = Backbone.open(tiny_folder(family), dropout=0.1).train()
    layer = backbone.last.layers[0]
    calls: list[tuple[Any, ...]] = []
    layer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    for rows, length in SHAPES:
        for padded in (False, True):
            ids = torch.randint(5, 100, (rows, length))
            mask = torch.ones_like(ids)
            mask[0, length // 2 :] = 0
            backbone.encode(ids, mask if padded else None)
    layer._forward_pre_hooks.clear()
    inputs = [({"args": args, "kwargs": kwargs},) for args, kwargs in calls]
    graphs = traced(lambda given: layer(*given["args"], **given["kwargs"]), inputs)
    assert graphs <= 4  # with a mask and without one, and what an alignment adds


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_the_decoders_layer(family: str, tiny_folder: Callable[[str], Path]) -> None:
    layer = DecoderLayer(Backbone.open(tiny_folder(family)).style).train()
    calls = []
    for rows, length in SHAPES:
        visible = torch.rand(rows, length, length) < 0.5
        asked = (torch.rand(rows * length) < 0.8).nonzero()[:, 0]
        calls.append((states(rows, length), states(rows, length), visible, asked))
    assert traced(layer, calls) <= 2


def test_functions_of_draws_and_logits() -> None:
    visible = [
        (
            torch.randint(-(2**31), 2**31, (rows,)).to(torch.int32),
            torch.ones(rows, length, dtype=torch.int64),
            torch.tensor(below_limit(1 - share)),
        )
        for (rows, length), share in zip(SHAPES, (1.0, 0.8, 0.7, 0.6, 0.5))  # a schedule makes no new code
    ]
    assert traced(visible_pairs, visible) == 1
    rows = [
        (torch.randn(n, WORDS), torch.randn(WORDS), torch.randint(WORDS, (n,)), torch.rand(n))
        for n in (64, 128, 37)
    ]
    assert traced(losses._softmax_gradient, rows) == 1
    highest = [
        (torch.randn(b, length, WORDS), torch.randn(WORDS), torch.rand(b, length) < 0.9)
        for b, length in SHAPES
    ]
    assert traced(bag_of_words._highest, highest) == 1
    winners = [
        (torch.randn(b, WORDS), torch.randint(length, (b, WORDS)), length, torch.float32)
        for b, length in SHAPES
    ]
    assert traced(bag_of_words._to_winners, winners) <= 2


def test_one_graph_is_the_function(tiny_folder: Callable[[str], Path]) -> None:
    """What was traced computes the same."""
    torch._dynamo.reset()
    keys = torch.randint(-(2**31), 2**31, (3,)).to(torch.int32)
    mask = torch.ones(3, 12, dtype=torch.int64)
    limit = torch.tensor(below_limit(0.5))
    one = torch.compile(visible_pairs, backend="eager", dynamic=True, fullgraph=True)
    assert torch.equal(one(keys, mask, limit), visible_pairs(keys, mask, limit))
