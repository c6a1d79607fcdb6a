"""What every trainer of ours does alike: whole checkpoints, and dropout that needs no memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from retromae.core import distributed
from retromae.core.draws import Stream, key
from retromae.core.runs import RunFolder

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object


class Resumable(_Base):
    """Mixed into a transformers Trainer (or one of sentence-transformers'), before it.

    * A checkpoint is written under a hidden name by all processes, then renamed by one: a folder that has its final
      name is whole.
    * Dropout is seeded anew for every forward pass from (seed, step, micro-batch, rank). That is the answer to
      resuming: no generator state is saved, and none is needed.
    """

    run: RunFolder
    _staging: Path | None = None
    _micro = -1

    def seed_dropout(self, seed: int) -> None:
        """To be called before every forward pass of a training step."""
        self._micro += 1
        micro = self._micro % self.args.gradient_accumulation_steps
        step = self.state.global_step
        torch.manual_seed(key(seed, int(Stream.DROPOUT), step, micro, distributed.rank()))

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
