"""What a process needs to know of the others. Works alike with and without torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from retromae.core.errors import UserError

T = TypeVar("T")


def active() -> bool:
    return dist.is_available() and dist.is_initialized()


def start() -> None:
    """Join the process group that torchrun or accelerate announced, if there is one and it is not joined yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not active():
        from accelerate import PartialState

        # One process may build a store, an index or a measurement for long while the others wait for it.
        PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=24))


def first_decides(action: Callable[[], T]) -> T:
    """Let the first process do `action` and give its result, or its refusal, to all of them.

    For what reads and writes the file system: the others would see it half done.
    """
    if not active() or world_size() == 1:
        return action()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = action()
        except UserError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise UserError(outcome[1], told=rank() != 0)
    result: T = outcome[0]
    return result


def rank() -> int:
    """This process's number; before the process group starts, what torchrun says."""
    return dist.get_rank() if active() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return dist.get_world_size() if active() else int(os.environ.get("WORLD_SIZE", "1"))


def writes() -> bool:
    """Is this the one process that writes files and prints?"""
    return rank() == 0


def barrier() -> None:
    if active():
        dist.barrier()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The element-wise sum over all processes (no gradient); `values` itself is left alone."""
    if not active() or world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


@cache
def _host_group() -> dist.ProcessGroup:
    """A group of its own over the network, so that small decisions never wait for an accelerator's queue."""
    group: dist.ProcessGroup = dist.new_group(backend="gloo")
    return group


def highest(value: float) -> float:
    """The largest of all processes' values, on every process: what all must take alike, such as the time."""
    if not active() or world_size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=_host_group())
    return float(shared)


def any_rank(flag: bool) -> bool:
    """True on every process when it is true on one: for decisions that all must take alike."""
    return highest(float(flag)) > 0
