"""What a process needs to know of the others. Works alike with and without torch.distributed.

torch is imported where processes speak with each other, not above: that takes seconds, and `--help`, a refusal and the
workers that read text do without.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from retromae.core.errors import UserError

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch import Tensor

T = TypeVar("T")


_by_itself = False


@contextmanager
def alone() -> Iterator[None]:
    """What this process does by itself while the others of its group wait: as if there were no group."""
    global _by_itself  # noqa: PLW0603 - of the whole process, its threads too
    before, _by_itself = _by_itself, True
    try:
        yield
    finally:
        _by_itself = before


def active() -> bool:
    if _by_itself or "torch" not in sys.modules:  # who has not imported torch has joined no group
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def start() -> None:
    """Join the process group that torchrun or accelerate announced, if there is one and it is not joined yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not active():
        import torch
        from accelerate import PartialState

        # One process may build a store, an index or a measurement for long while the others wait for it.
        PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=24))


def first_decides(action: Callable[[], T]) -> T:
    """Let the first process do `action` and give its result, or its refusal, to all of them.

    For what reads and writes the file system: the others would see it half done.
    """
    if not active() or world_size() == 1:
        return action()
    import torch.distributed as dist

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
    if active():
        import torch.distributed as dist

        return dist.get_rank()
    return 0 if _by_itself else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    if active():
        import torch.distributed as dist

        return dist.get_world_size()
    return 1 if _by_itself else int(os.environ.get("WORLD_SIZE", "1"))


def writes() -> bool:
    """Is this the one process that writes files and prints?"""
    return rank() == 0


def barrier() -> None:
    if active():
        import torch.distributed as dist

        dist.barrier()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The element-wise sum over all processes (no gradient); `values` itself is left alone."""
    if not active() or world_size() == 1:
        return values
    import torch.distributed as dist

    total = values.clone()
    dist.all_reduce(total)
    return total


def gather_rows(values: Tensor) -> list[Tensor]:
    """Every process's tensor, in the order of their numbers (no gradient); they may differ in the first size."""
    if not active() or world_size() == 1:
        return [values]
    import torch
    import torch.distributed as dist

    size = torch.tensor([values.shape[0]], device=values.device)
    sizes = [torch.empty_like(size) for _ in range(world_size())]
    dist.all_gather(sizes, size)
    counts = [int(other) for other in torch.cat(sizes).tolist()]
    padded = values.new_zeros(max(counts), *values.shape[1:])
    padded[: values.shape[0]] = values
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return [other[:count] for other, count in zip(gathered, counts)]


@cache
def _host_group() -> dist.ProcessGroup:
    """A group of its own over the network, so that small decisions never wait for an accelerator's queue."""
    import torch.distributed as dist

    group: dist.ProcessGroup = dist.new_group(backend="gloo")
    return group


def highest(value: float) -> float:
    """The largest of all processes' values, on every process: what all must take alike, such as the time."""
    if not active() or world_size() == 1:
        return value
    import torch
    import torch.distributed as dist

    shared = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=_host_group())
    return float(shared)


def any_rank(flag: bool) -> bool:
    """True on every process when it is true on one: for decisions that all must take alike."""
    return highest(float(flag)) > 0
