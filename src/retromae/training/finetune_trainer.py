"""sentence-transformers' trainer with whole checkpoints, and what happens around its steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from retromae.core import distributed
from retromae.core.errors import UserError
from retromae.core.files import replacing_folder, restore, write_json
from retromae.core.runs import RunFolder
from retromae.training.checkpoints import Scheduled
from retromae.training.contrast import GroupLoss
from retromae.training.finetune_settings import FinetuneConfig
from retromae.training.schedule import Clock
from retromae.training.session import measured_every, measurements
from retromae.training.student import Student

_BEST = "best.json"


class FinetuneTrainer(Scheduled, SentenceTransformerTrainer):
    """Trains a `Student`. Batches come in the order of the data set; checkpoints are whole and can be resumed."""

    def __init__(
        self,
        run: RunFolder,
        student: Student,
        loss: GroupLoss,
        args: SentenceTransformerTrainingArguments,
        rows: Dataset,
        clock: Clock,
    ) -> None:
        self.run, self.student, self.group_loss, self.clock = run, student, loss, clock
        self.tokens_seen = 0  # of all processes, up to the last logging
        self._micro_batches = 0  # since then
        super().__init__(model=student.model, args=args, train_dataset=rows, loss=loss)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: it would read the data set."""

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        self.seed_dropout(self.args.seed)
        self.group_loss.progress = self.clock.progress(self.state.global_step)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._micro_batches += 1
        if loss.device.type == "cpu":  # an accelerator would be waited for: `log` looks at it there
            self._check_finite(loss.item())
        return loss

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"The loss became {loss} at step {self.state.global_step}. Lower learning_rate, raise "
                "temperature or turn off bf16, and go on from the last checkpoint with --resume."
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = self._complete(logs)
            self._check_finite(logs["loss"])
        super().log(logs, start_time)

    def _complete(self, logs: dict[str, float]) -> dict[str, float]:
        """With the tokens of all processes, and the part of the loss that gradient caching knows only afterwards."""
        tokens = torch.tensor(self.group_loss.tokens_seen, device=self.args.device)
        self.tokens_seen = int(distributed.sum_over_ranks(tokens))
        replayed, self.group_loss.replayed = self.group_loss.replayed, None
        micro_batches, self._micro_batches = self._micro_batches, 0
        if replayed is None:
            return logs
        part = float(distributed.sum_over_ranks(replayed)) / (micro_batches * distributed.world_size())
        return {**logs, "loss": logs["loss"] + part, "reconstruction": part}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:  # some versions call this on every process
            self.student.save_weights(Path(output_dir or self._get_output_dir()))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.student.load(Path(resume_from_checkpoint))


class SegmentEnd(TrainerCallback):
    """Ends a segment of the run, with a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A checkpoint brings its own intervals along; what was asked for now holds."""
        state.logging_steps, state.save_steps = int(args.logging_steps), int(args.save_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if state.global_step >= self.step:
            control.should_log = control.should_save = control.should_training_stop = True
        return control


class Best:
    """Measures while training, keeps the best weights, and says when it is enough.

    What it remembers stands in the run folder (`metrics.jsonl`, `best/`), so that a resumed run knows it too.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        run: RunFolder,
        student: Student,
        judge: Callable[[SentenceTransformer], dict[str, float]] | None,
        steps: int,
    ) -> None:
        self.config, self.run, self.student, self.judge = config, run, student, judge
        self.every = config.eval_steps or measured_every(steps, 10, self._cost())

    def _cost(self) -> float:
        """How many times the texts of a step a measurement reads."""
        config = self.config
        queries = (
            config.per_device_train_batch_size * distributed.world_size() * config.gradient_accumulation_steps
        )
        return (config.eval_passages + config.eval_queries) / (queries * (1 + config.group_size))

    @property
    def kept(self) -> dict[str, Any] | None:
        """Step and value of the weights in best/."""
        restore(self.run.best)
        path = self.run.best / _BEST
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def gave_up(self, step: int) -> bool:
        """Have there been too many measurements without a better one? One process says so: the others may not see
        its files, or not yet."""
        patience = self.config.early_stopping_patience
        if patience is None or self.judge is None:
            return False
        values = distributed.first_decides(lambda: self._values(step))
        return bool(values) and len(values) - 1 - values.index(max(values)) >= patience

    def _values(self, step: int) -> list[float]:
        return [metrics[self.config.eval_metric] for at, metrics in measurements(self.run) if at <= step]

    def _measured(self, step: int) -> bool:
        return any(at == step for at, _ in measurements(self.run))

    def measure(self, step: int, log: Callable[[dict[str, float]], None]) -> None:
        judge = self.judge
        if judge is None or distributed.first_decides(lambda: self._measured(step)):
            return
        metrics = distributed.first_decides(lambda: judge(self.student.model))
        if self.config.eval_metric not in metrics:
            raise UserError(
                f"eval_metric is {self.config.eval_metric!r}, but measured are {', '.join(metrics)}."
            )
        if self.config.keep_best and distributed.writes():
            self._keep_if_better(step, metrics[self.config.eval_metric])
        log({f"eval_{name}": value for name, value in metrics.items()})  # last: what is logged is done
        distributed.barrier()

    def _keep_if_better(self, step: int, value: float) -> None:
        kept = self.kept
        if kept is None or value > kept[self.config.eval_metric]:
            with replacing_folder(self.run.best) as folder:
                self.student.save(folder)
                write_json(folder / _BEST, {"step": step, self.config.eval_metric: value})

    def measure_at_end(self, step: int) -> None:
        def log(record: dict[str, float]) -> None:
            if distributed.writes():
                self.run.log({"step": step, **record})

        self.measure(step, log)

    def callback(self, trainer: FinetuneTrainer) -> TrainerCallback:
        return _Measuring(self, trainer)


class _Measuring(TrainerCallback):
    def __init__(self, best: Best, trainer: FinetuneTrainer) -> None:
        self.best, self.trainer = best, trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step == 0:
            self.best.measure(0, self.trainer.log)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        step = state.global_step
        if step % self.best.every == 0 or step >= state.max_steps:
            due = control.should_log
            self.best.measure(step, self.trainer.log)
            control.should_log = due  # the figures' line took it off, but the loss has not been logged
            if self.best.gave_up(step):
                control.should_log = control.should_save = control.should_training_stop = True
        return control
