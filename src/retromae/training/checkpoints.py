"""What every trainer of ours does alike: whole checkpoints, and dropout that needs no memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from retromae.core import distributed
from retromae.core.draws import Stream, key
from retromae.core.files import write_json
from retromae.core.runs import RunFolder
from retromae.training.callbacks import Interruption
from retromae.training.schedule import Clock

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object


STATE_NAME = "retromae_state.json"


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The small state of a checkpoint."""
    return dict(json.loads((checkpoint / STATE_NAME).read_text(encoding="utf-8")))


class Resumable(_Base):
    """Mixed into a transformers Trainer (or one of sentence-transformers'), before it.

    * A checkpoint is written under a hidden name by all processes, then renamed by one: a folder that has its final
      name is whole.
    * Dropout is seeded anew for every forward pass from (seed, step, micro-batch, rank, chunk). That is the answer to
      resuming: no generator state is saved, and none is needed.
    """

    run: RunFolder
    _staging: Path | None = None
    _micro = -1

    def seed_dropout(self, seed: int) -> None:
        """To be called before every forward pass of a training step that takes one for a micro-batch."""
        self._micro += 1
        self.seed_dropout_of(seed, self._micro % self.args.gradient_accumulation_steps)

    def seed_dropout_of(self, seed: int, micro: int, chunk: int = 0) -> None:
        """The same for a forward pass of the current step that is named: part `chunk` of the micro-batch `micro`."""
        number = micro + chunk * self.args.gradient_accumulation_steps  # of the pass among those of the step
        torch.manual_seed(key(seed, int(Stream.DROPOUT), self.state.global_step, number, distributed.rank()))

    def complete_checkpoint(self, folder: Path) -> None:
        """What else belongs into a checkpoint; called by the process that writes, before the folder is named."""

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(self._staging or self.run.path)

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        final = self.run.checkpoint(self.state.global_step)
        if final.exists():
            return
        staging = self.run.path / f".{final.name}"
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        written = staging / final.name
        distributed.barrier()
        if self.args.should_save:
            self.complete_checkpoint(written)
            os.replace(written, final)
            staging.rmdir()
            self.run.keep_last(self.args.save_total_limit or 2)
        distributed.barrier()

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing to save: see the note on dropout."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing was saved."""


class Scheduled(Resumable):
    """A trainer whose learning rate follows a `Clock`."""

    clock: Clock

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(cast(Any, optimizer or self.optimizer), self.clock.learning_rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler


class Clocked(Scheduled):
    """One whose checkpoints keep a small state of its own, too.

    Its batches are named by step, so resuming skips and replays nothing.
    """

    kept: dict[str, Any]  # best score, patience, …
    _tokens = 0  # that all processes together have trained on, up to the last time they were counted

    @property
    def tokens_seen(self) -> int:
        return self._tokens

    def complete_checkpoint(self, folder: Path) -> None:
        self.kept |= {
            "step": self.state.global_step,
            "tokens_seen": self.tokens_seen,
            "seconds": self.clock.seconds(),
            "batches_per_step": self.args.world_size * self.args.gradient_accumulation_steps,
        }
        write_json(folder / STATE_NAME, self.kept)

    def resume_from(self, checkpoint: Path) -> None:
        """Take over the small state of a checkpoint; the Trainer reads weights and optimiser itself."""
        self.kept = read_state(checkpoint)
        self._tokens = int(self.kept["tokens_seen"])
        self.clock.start(already=float(self.kept["seconds"]))

    def run_from(self, checkpoint: Path | None, interruption: Interruption, over: Callable[[], bool]) -> int:
        """Train on, unless the checkpoint was the end (`over`) of a run killed before it finished; the last step."""
        self.clock.start()
        if checkpoint is not None:
            self.resume_from(checkpoint)
        if checkpoint is not None and over():
            self._load_from_checkpoint(str(checkpoint))
            self.state.global_step = int(self.kept["step"])
        else:
            with interruption.listening():
                self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return int(self.state.global_step)
