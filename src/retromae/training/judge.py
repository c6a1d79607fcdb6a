"""Is it working, and which weights are the best? Measures on held-out rows, keeps the best, warns, stops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from retromae.core import distributed
from retromae.core.runs import RunFolder
from retromae.models.checkpoint import Checkpoint, save
from retromae.objectives import Objective
from retromae.text.rows import Rows
from retromae.training.batches import Padding
from retromae.training.heldout import HeldOut
from retromae.training.probe import Probe
from retromae.training.settings import Resolved
from retromae.training.trainer import PretrainTrainer

EMPTY = 0.02  # cls_use below this: the sentence vector carries nothing yet


class Judge:
    """Measures an objective while it is trained and draws the consequences."""

    def __init__(
        self,
        settings: Resolved,
        run: RunFolder,
        rows: Rows,
        held_out: NDArray[np.int64],
        start: Checkpoint,
        padding: Padding,
        tokens_per_batch: int,
        say: Callable[[str], None],
    ) -> None:
        self.settings, self.run, self.rows, self.start = settings, run, rows, start
        self.config = settings.run
        self.padding, self.tokens_per_batch, self.say = padding, tokens_per_batch, say
        vocabulary = start.backbone.vocab_size
        self.held_out = (
            HeldOut(rows, held_out, padding, tokens_per_batch, vocabulary) if len(held_out) else None
        )
        self.probe = (
            Probe.build(rows, held_out, self.config.probe_queries) if self.config.probe_queries else None
        )
        self.last: dict[str, float] = {}
        self._told = False  # what to do about an empty [CLS], which is said once

    def measure(self, objective: Objective) -> dict[str, float]:
        """Losses, accuracies and [CLS] use on the held-out rows, and the retrieval probe."""
        device = next(objective.parameters()).device
        autocast = partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=self.config.bf16)
        metrics = self.held_out.measure(objective, device, autocast) if self.held_out else {}
        if self.probe is not None:
            with autocast():
                metrics |= self.probe.run(objective.backbone, self.padding, device, self.tokens_per_batch)
        self.last = metrics
        return metrics

    def judge(self, trainer: PretrainTrainer, metrics: dict[str, float]) -> None:
        """Keep the best checkpoint by the retrieval probe, stop when it no longer gets better, warn."""
        step = int(trainer.state.global_step)
        trainer.kept["measured_at"] = step
        self._warn(metrics, step)
        score = metrics.get("probe_ndcg@10")
        # While [CLS] carries nothing, or nothing has been learned, a good probe is luck or the untouched base.
        if score is None or step == 0 or metrics.get("cls_use", 1.0) < EMPTY:
            return
        best = trainer.kept.get("best")
        if best is None or score > best["probe_ndcg@10"]:
            trainer.kept["best"] = {"step": step, "probe_ndcg@10": score}
            trainer.kept["worse"] = 0
            if self.config.keep_best and distributed.writes():
                self.save(trainer.objective, self.run.best, step)
        else:
            trainer.kept["worse"] = int(trainer.kept.get("worse", 0)) + 1
            if trainer.kept["worse"] == self.config.early_stopping_patience:
                trainer.control.should_training_stop = trainer.control.should_save = True
                self.say(
                    f"The retrieval probe has not improved for {trainer.kept['worse']} measurements: stopping."
                )

    def _warn(self, metrics: dict[str, float], step: int) -> None:
        use = metrics.get("cls_use")
        if use is not None and use < EMPTY and step > 0:
            told, self._told = self._told, True
            scheduled = getattr(self.settings.objective, "hide_schedule", 1.0) > 0
            advice = (
                " The decoder rebuilds from word frequencies and its own context. That is usual in the first hundreds "
                "of steps; if it lasts, "
                + ("" if scheduled else "set hide_schedule to 0.3, ")
                + "take more and "
                "smaller steps, or start from a trained language model."
            )
            advice = "" if told else advice
            self.say(f"[yellow]\\[CLS] carries almost nothing yet (cls_use {use:.3f}).{advice}[/yellow]")

    def save(self, objective: Objective, folder: Path, step: int) -> None:
        """A checkpoint in the form that every tool loads."""
        recipe = {
            "objective": self.config.objective,
            "settings": self.settings.flat(),
            "provenance": {
                "rows": self.rows.fingerprint,
                "base": self.config.model_name_or_path,
                "steps": step,
                "measured": self.last,
            },
        }
        heads = objective.head_tensors()
        save(
            folder,
            objective.backbone,
            self.start.tokenizer,
            heads,
            recipe,
            self.config.max_seq_length,
            name=self.run.path.name,
        )
