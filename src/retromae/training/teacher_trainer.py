"""sentence-transformers' trainer of cross-encoders, made resumable to the bit.

Losses, mixed precision, DDP and the loop are theirs. Ours: batches are named by step, so nothing is skipped or
replayed on resuming; the learning rate follows a `Clock`; measuring is shared by all processes and decides which
weights are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, ListNetLoss
from torch import Tensor, nn
from torch.utils.data import DataLoader

from retromae.core import distributed
from retromae.core.errors import UserError
from retromae.core.runs import RunFolder
from retromae.training.checkpoints import Clocked
from retromae.training.schedule import Clock
from retromae.training.teacher_groups import Loss


def build_loss(name: Loss, model: CrossEncoder) -> nn.Module:
    """`listwise`: cross-entropy of each group's softmax against its answer (ListNet with labels whose softmax is
    one-hot), all pairs of a batch in one forward pass. `binary`: every pair by itself."""
    loss: nn.Module = (
        ListNetLoss(model, mini_batch_size=-1) if name == "listwise" else BinaryCrossEntropyLoss(model)
    )
    return loss


@dataclass(frozen=True)
class Keeping:
    """What follows from a measurement."""

    save: Callable[[Path, int, dict[str, float]], None]  # the weights as they are now, to a folder
    keep_best: bool
    patience: int | None  # stop after so many measurements without a better one
    first: bool  # whether the weights before the first step may be the best: not with a fresh head


class TeacherTrainer(Clocked, CrossEncoderTrainer):
    """Trains on batches that come in order from `batches(first_step)`."""

    def __init__(
        self,
        model: CrossEncoder,
        args: CrossEncoderTrainingArguments,
        *,
        loss: Loss,
        run: RunFolder,
        clock: Clock,
        batches: Callable[[int], DataLoader[dict[str, Any]]],
        evaluator: BaseEvaluator | None,
        keeping: Keeping,
    ) -> None:
        super().__init__(model=model, args=args, loss=build_loss(loss, model), evaluator=evaluator)
        self.run, self.clock, self.keeping = run, clock, keeping
        self.kept: dict[str, Any] = {}  # small state that checkpoints keep: best score, patience, …
        self.last: dict[str, float] = {}  # the last measurement
        self._batches = batches
        self._fresh_tokens = torch.zeros(
            (), dtype=torch.int64, device=args.device
        )  # of this process, since then
        self._unchecked: Tensor | None = None
        self.model_accepts_loss_kwargs = False  # the losses are means, so accumulation divides them
        model.register_forward_pre_hook(self._count_tokens)

    # -- training -----------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        # Not prepared by accelerate: the plan has dealt the batches out to the processes already.
        return self._batches(int(self.kept.get("step", 0)))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        self.seed_dropout(self.args.seed)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._check_finite(loss)
        return loss

    def _check_finite(self, loss: Tensor) -> None:
        """On an accelerator the previous step's loss is looked at, so that the device is never waited for."""
        suspect, self._unchecked = (loss, None) if loss.device.type == "cpu" else (self._unchecked, loss)
        if suspect is not None and not torch.isfinite(suspect):
            raise UserError(
                f"The loss became {suspect.item()} at step {self.state.global_step}. Lower learning_rate or turn off "
                "bf16, and go on from the last checkpoint with --resume."
            )

    def _count_tokens(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        if module.training and "attention_mask" in given[0]:
            self._fresh_tokens += given[0]["attention_mask"].sum()

    def gather_tokens(self) -> int:
        """Tokens that all processes together have trained on; to be called by all of them."""
        self._tokens += int(distributed.sum_over_ranks(self._fresh_tokens))
        self._fresh_tokens.zero_()
        return self._tokens

    # -- measuring ----------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            self.gather_tokens()
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """All processes measure together; the best weights are kept by the evaluator's primary metric."""
        assert self.evaluator is not None, "nothing asks for a measurement without an evaluator"
        measured = self.evaluator(self.model)
        metrics = measured if isinstance(measured, dict) else {"score": float(measured)}
        self.last = {name: float(value) for name, value in metrics.items()}
        self.log({f"eval_{name}": value for name, value in self.last.items()})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, self.last)
        self._judge(self.evaluator.primary_metric or "score")
        return self.last

    def _judge(self, name: str) -> None:
        step = int(self.state.global_step)
        score, best = self.last.get(name, math.nan), self.kept.get("best")
        self.kept["measured_at"] = step
        if math.isnan(score) or (step == 0 and not self.keeping.first):
            return
        if best is None or score > best[name]:
            self.kept["best"], self.kept["worse"] = {"step": step, name: score}, 0
            if self.keeping.keep_best and distributed.writes():
                self.keeping.save(self.run.best, step, self.last)
            return
        self.kept["worse"] = int(self.kept.get("worse", 0)) + 1
        if self.kept["worse"] == self.keeping.patience:
            self.control.should_training_stop = self.control.should_save = True

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        self.gather_tokens()
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:  # some versions of transformers call this on every process
            self.model.save_pretrained(output_dir or self._get_output_dir(), create_model_card=False)
