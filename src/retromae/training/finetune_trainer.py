"""sentence-transformers' trainer with whole checkpoints, and what happens around its steps."""

from __future__ import annotations

import json
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
from retromae.training.checkpoints import Resumable
from retromae.training.contrast import GroupLoss
from retromae.training.finetune_settings import FinetuneConfig
from retromae.training.session import measurements
from retromae.training.student import Student

_BEST = "best.json"


class FinetuneTrainer(Resumable, SentenceTransformerTrainer):
    """Trains a `Student`. Batches come in the order of the data set; checkpoints are whole and can be resumed."""

    def __init__(
        self,
        run: RunFolder,
        student: Student,
        loss: GroupLoss,
        args: SentenceTransformerTrainingArguments,
        rows: Dataset,
    ) -> None:
        self.run, self.student, self.group_loss = run, student, loss
        self._logged_at = 0
        super().__init__(model=student.model, args=args, train_dataset=rows, loss=loss)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: it would read the data set."""

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        self.seed_dropout(self.args.seed)
        self.group_loss.progress = self.state.global_step / max(1, self.state.max_steps)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            raise UserError(
                f"The loss became {loss.item()} at step {self.state.global_step}. Lower learning_rate, raise "
                "temperature or turn off bf16, and go on from the last checkpoint with --resume."
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        parts, self.group_loss.replayed = self.group_loss.replayed, []
        steps = self.state.global_step - self._logged_at
        if "loss" in logs and parts and steps:
            micro = steps * self.args.gradient_accumulation_steps
            logs = {**logs, "reconstruction": float(torch.stack(parts).sum()) / micro}
        self._logged_at = self.state.global_step
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.student.save_weights(Path(output_dir or self._get_output_dir()))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.student.load(Path(resume_from_checkpoint))


class SegmentEnd(TrainerCallback):
    """Ends a segment of the run, with a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if state.global_step >= self.step:
            control.should_save = control.should_training_stop = True
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
        self.every = config.eval_steps or max(1, steps // 10)

    @property
    def kept(self) -> dict[str, Any] | None:
        """Step and value of the weights in best/."""
        restore(self.run.best)
        path = self.run.best / _BEST
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def gave_up(self, step: int) -> bool:
        """Have there been too many measurements without a better one?"""
        patience, values = self.config.early_stopping_patience, self._values(step)
        return patience is not None and bool(values) and len(values) - 1 - _first_best(values) >= patience

    def _values(self, step: int) -> list[float]:
        return [metrics[self.config.eval_metric] for at, metrics in measurements(self.run) if at <= step]

    def measure(self, step: int, log: Callable[[dict[str, float]], None]) -> None:
        judge = self.judge
        if judge is None or any(at == step for at, _ in measurements(self.run)):
            return
        metrics = distributed.first_decides(lambda: judge(self.student.model))
        if self.config.eval_metric not in metrics:
            raise UserError(
                f"eval_metric is {self.config.eval_metric!r}, but measured are {', '.join(metrics)}."
            )
        earlier = self._values(step)
        log({f"eval_{name}": value for name, value in metrics.items()})
        value = metrics[self.config.eval_metric]
        if self.config.keep_best and distributed.writes() and (not earlier or value > max(earlier)):
            with replacing_folder(self.run.best) as folder:
                self.student.save(folder)
                write_json(folder / _BEST, {"step": step, self.config.eval_metric: value})
        distributed.barrier()

    def measure_at_end(self, step: int) -> None:
        def log(record: dict[str, float]) -> None:
            if distributed.writes():
                self.run.log({"step": step, **record})

        self.measure(step, log)

    def callback(self, trainer: FinetuneTrainer) -> TrainerCallback:
        return _Measuring(self, trainer)


def _first_best(values: list[float]) -> int:
    return values.index(max(values))


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
            self.best.measure(step, self.trainer.log)
            if self.best.gave_up(step):
                control.should_save = control.should_training_stop = True
        return control
