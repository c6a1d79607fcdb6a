"""What happens around the steps: stopping, logging to the run folder, progress on the screen."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from retromae.core import distributed
from retromae.core.runs import RunFolder
from retromae.core.words import duration
from retromae.training.schedule import Clock


class Interruption:
    """SIGTERM and SIGINT ask for a stop after the current step; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number

    def agreed(self) -> bool:
        """Has one come? Alike on all processes: it may have reached one of them alone, or one of them first."""
        if not distributed.any_rank(self.signal is not None):
            return False
        self.signal = self.signal or signal.SIGTERM
        return True

    @contextmanager
    def listening(self) -> Iterator[Interruption]:
        before = {number: signal.signal(number, self._take) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Stopping(TrainerCallback):
    """Ends the run, with a checkpoint, when a signal came or the minutes are over. All processes stop alike."""

    def __init__(self, interruption: Interruption, clock: Clock) -> None:
        self.interruption = interruption
        self.clock = clock

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.interruption.agreed():
            control.should_save = control.should_training_stop = True
        elif distributed.any_rank(self.clock.out_of_time):
            control.should_log = control.should_training_stop = True
            control.should_save = True
        return control


class Watching(TrainerCallback):
    """`metrics.jsonl`, and a line on the screen for every logging step and evaluation."""

    def __init__(self, run: RunFolder, clock: Clock, epoch_steps: float, console: Console | None) -> None:
        self.run = run
        self.clock = clock
        self.epoch_steps = epoch_steps
        self.console = console
        self.tokens_seen: Callable[[], int] = lambda: 0
        self._last = (time.monotonic(), 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._last = (time.monotonic(), self.tokens_seen())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "train_runtime" in logs or not distributed.writes():
            return
        record = {"step": state.global_step, "epoch": round(state.global_step / self.epoch_steps, 4)}
        record |= {name: value for name, value in logs.items() if name not in ("epoch", "step")}
        if "loss" in logs:
            now, tokens = time.monotonic(), self.tokens_seen()
            before, seen = self._last
            record["tokens_per_second"] = round((tokens - seen) / max(1e-9, now - before), 1)
            record["tokens"] = tokens
            self._last = (now, tokens)
        record["seconds"] = round(self.clock.seconds(), 2)
        self.run.log(record)
        if self.console is not None:
            self.console.print(self._line(record), highlight=False, soft_wrap=True)

    def _line(self, record: dict[str, float]) -> str:
        step = int(record["step"])
        total = f"/{self.clock.total_steps}" if self.clock.total_steps else ""
        skipped = ("step", "epoch", "seconds", "tokens", "tokens_per_second", "learning_rate", "grad_norm")
        figures = "  ".join(
            f"{name.removeprefix('eval_')} {value:.3f}"
            for name, value in record.items()
            if name not in skipped
        )
        if not any(name.startswith("eval_") for name in record):
            left = self.clock.seconds_left(step)
            speed = f"  {record['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in record else ""
            return f"step {step}{total}  {figures}{speed}" + (f"  {duration(left)} left" if left else "")
        return f"[bold]step {step}{total} held out[/bold]  {figures}"
