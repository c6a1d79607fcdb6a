"""What is done for a step while an accelerator is still at work on the one before. On a CPU nothing is.

The processor hands an accelerator its work and goes on; whoever asks for a value waits until all of that is done. So
what must be asked for (how many words are masked, is the loss a number?) is asked for beside the work, or a step later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Beside:
    """Work in a queue of its own, which may be waited for without waiting for the main one."""

    def __init__(self, device: torch.device) -> None:
        self._queue: torch.cuda.Stream | None = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # what it reads, the model's tables, is there
            self._queue = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def do(self, work: Callable[[], T], tensors: Callable[[T], Iterable[Tensor]]) -> T:
        """The result of `work`, ready for the main queue. `tensors` are all those that it made and that are used."""
        if self._queue is None:
            return work()
        with torch.cuda.stream(self._queue):
            result = work()
        main = torch.cuda.current_stream()
        main.wait_stream(self._queue)
        for tensor in tensors(result):
            tensor.record_stream(main)  # its memory is free when the main queue has done with it
        return result


class Coming:
    """A number on its way from the device, 0-dim → float: nobody waits for it until `value` is asked for."""

    def __init__(self, number: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._number = number.detach()
        if number.is_cuda:
            self._number = torch.empty((), dtype=number.dtype, pin_memory=True)
            self._number.copy_(number.detach(), non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    @property
    def value(self) -> float:
        if self._event is not None:
            self._event.synchronize()
        return float(self._number)
