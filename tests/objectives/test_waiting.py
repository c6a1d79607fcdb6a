"""A step asks a device for nothing: with tensors that have a shape but no values, whatever looked at one would fail.

Where torch knows CUDA, with a GPU or without, these tensors claim to lie there, so one that was left on the host is
found as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from objectives.test_objectives import PASSAGES, batch_of, make, pad_id
from retromae.objectives import Batch, Drawn, Objective, available

DEVICE = "cuda" if torch.version.cuda else "cpu"
ASKS = {"laprador"}  # whose turn it is, once per step


def without_values(objective: Objective, mode: FakeTensorMode) -> None:
    """Every parameter and buffer in place."""
    for module in objective.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                empty = fake(parameter, mode)
                module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = fake(buffer, mode)


def fake(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)


@pytest.mark.parametrize("name", available())
def test_forward_looks_at_no_value(name: str, tiny_folder: Callable[[str], Path]) -> None:
    objective = make(tiny_folder("bert"), name).train()
    batch = batch_of(PASSAGES, pad_id(objective), progress=0.2)
    drawn = objective.draw_ahead(batch)
    mode = FakeTensorMode()
    without_values(objective, mode)
    hollow = Batch(*(fake(tensor, mode) for tensor in batch.tensors()), batch.progress)
    draws = Drawn(*({key: fake(tensor, mode) for key, tensor in part.items()} for part in drawn))
    with mode, torch.compiler.set_stance("force_eager"):
        for compiled in (False, True):
            if compiled:
                objective.compile_parts()
            if name in ASKS:
                with pytest.raises(DataDependentOutputException):
                    objective(hollow, draws)
            else:
                assert objective(hollow, draws)["loss"].device.type == DEVICE


def test_what_is_not_drawn_ahead_is_noticed(tiny_folder: Callable[[str], Path]) -> None:
    """The check itself: places that must still be looked for are values."""
    objective = make(tiny_folder("bert"), "mlm").train()
    batch = batch_of(PASSAGES, pad_id(objective))
    drawn, mode = objective.draw(batch), FakeTensorMode()
    without_values(objective, mode)
    hollow = Batch(*(fake(tensor, mode) for tensor in batch.tensors()))
    draws = Drawn(*({key: fake(tensor, mode) for key, tensor in part.items()} for part in drawn))
    with mode, pytest.raises(Exception, match=r"nonzero|data-dependent|dynamic"):
        objective(hollow, draws)
