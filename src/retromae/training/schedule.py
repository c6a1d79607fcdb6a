"""How far a run is, and what follows from it: when it ends and the learning rate."""

from __future__ import annotations

import math
import time
from typing import Literal

from retromae.core.distributed import highest

Shape = Literal["linear", "cosine", "constant"]


class Clock:
    """Progress in [0, 1] by optimiser steps or by minutes, whichever is further.

    Resuming hands back the seconds that earlier sessions took. A run that is bounded by steps alone never looks
    at the time, so its learning rates are the same on every machine.
    """

    def __init__(
        self,
        *,
        total_steps: int | None,
        minutes: float | None,
        shape: Shape = "linear",
        warmup_ratio: float = 0.1,
    ) -> None:
        if total_steps is None and minutes is None:
            raise ValueError("a run ends by steps or by minutes")
        self.total_steps, self.minutes = total_steps, minutes
        self.shape, self.warmup_ratio = shape, warmup_ratio
        self.start()

    def start(self, already: float = 0.0) -> None:
        self._began = time.monotonic() - already

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def progress(self, step: float) -> float:
        by_steps = step / self.total_steps if self.total_steps else 0.0
        by_time = self.seconds() / (60.0 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def out_of_time(self) -> bool:
        return self.minutes is not None and self.seconds() >= 60.0 * self.minutes

    def seconds_left(self, step: int) -> float | None:
        done = self.progress(step)
        return self.seconds() * (1.0 - done) / done if done > 0 else None

    def learning_rate(self, step: int) -> float:
        """The factor on the peak learning rate: linear warm-up, then the shape down to 0; at mid-step, so that
        neither the first nor the last step has a rate of 0. Processes whose clocks differ agree on one."""
        done = self.progress(step + 0.5)
        if self.minutes is not None:
            done = highest(done)
        if done < self.warmup_ratio:
            return done / self.warmup_ratio
        if self.shape == "constant":
            return 1.0
        rest = (done - self.warmup_ratio) / max(1e-12, 1.0 - self.warmup_ratio)
        return 1.0 - rest if self.shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest))
