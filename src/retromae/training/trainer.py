"""The trainer of pre-training.

transformers gives mixed precision, compilation, DDP and FSDP, logging integrations and the loop. Ours is what makes
a run a pure function of its settings and step:

* batches come from a `BatchPlan`, named by step, so nothing is skipped or replayed on resuming;
* an objective's masks are drawn from (seed, epoch, row), and the items of a whole optimiser step are counted over
  all its micro-batches and processes before the first forward pass, so that means are exact;
* an objective that compares rows compares all those of an optimiser step (`objectives.contrast`);
* a batch is computed in chunks that fit the machine (`chunks.cut`), and the result is the same;
* checkpoints are whole and dropout is seeded (`Resumable`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from retromae.core import distributed
from retromae.core.errors import UserError
from retromae.core.files import write_json
from retromae.core.runs import RunFolder
from retromae.objectives import Batch, Objective
from retromae.objectives.contrast import Contrastive, over_the_step
from retromae.training.ahead import Beside, Coming
from retromae.training.checkpoints import Clocked
from retromae.training.chunks import Chunk
from retromae.training.schedule import Clock

WEIGHTS_NAME = "objective.safetensors"


Evaluate = Callable[[Objective], dict[str, float]]


class PretrainTrainer(Clocked, Trainer):
    """Trains an `Objective` on micro-batches that come in order from `batches(first_step)`.

    `cut` gives the parts of one that are computed one after the other; `compiled` has them computed by compiled code.
    """

    def __init__(
        self,
        objective: Objective,
        args: TrainingArguments,
        *,
        run: RunFolder,
        clock: Clock,
        batches: Callable[[int], DataLoader[Batch]],
        cut: Callable[[Batch], list[Batch]] = lambda batch: [batch],
        compiled: bool = False,
        evaluate: Evaluate | None = None,
        after_evaluation: Callable[[PretrainTrainer, dict[str, float]], None] | None = None,
    ) -> None:
        if args.fsdp:
            raise UserError(
                "FSDP is not supported; an encoder fits on one device, so use plain torchrun (DDP)."
            )
        super().__init__(model=objective, args=args, eval_dataset=[] if evaluate else None)
        self.objective: Objective = objective
        self.run = run
        self.clock = clock
        self.kept: dict[str, Any] = {}  # small state that checkpoints keep: best score, patience, …
        self._fresh_tokens: Tensor | float = 0.0  # since then, on the device
        self._batches, self._cut = batches, cut
        self._evaluate_with = evaluate
        self._after_evaluation = after_evaluation
        self._sums: dict[str, Tensor] = {}  # parts of the loss since the last logging, on the device
        self._logged_at = 0  # the step of the last logging
        self._beside = Beside(self.args.device)
        self._unchecked: tuple[Coming, Batch] | None = None
        self.model_accepts_loss_kwargs = True  # the loss is normalised over the whole step, here
        self.loss_is_scaled_for_ga = True
        if compiled:
            objective.compile_parts()
        if compiled and isinstance(objective, Contrastive):
            # Two passes, of which one needs no gradient and so is other code, must draw dropout alike.
            from torch._inductor import config

            config.fallback_random = True

    # -- batches ------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Batch]:
        # Not prepared by accelerate: the plan has dealt the batches out to the processes already.
        return self._batches(int(self.kept.get("step", 0)))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """One optimiser step's micro-batches of this process, each in chunks, and the items of all processes."""
        progress = self.clock.progress(self.state.global_step)
        samples: list[list[Chunk]] = []
        for micro in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batch.progress = progress
            parts = self._cut(batch)
            samples.append([self._drawn(part, micro, number, device) for number, part in enumerate(parts)])
        if not samples:
            return [], None
        chunks = [chunk for sample in samples for chunk in sample]
        if isinstance(self.objective, Contrastive):
            self._compare_over_the_step(self.objective, chunks)
        names = sorted(chunks[0].drawn.counts)
        mine = [torch.stack([chunk.drawn.counts[name] for chunk in chunks]).sum() for name in names]
        tokens = torch.stack([chunk.batch.attention_mask.sum() for chunk in chunks]).sum()
        totals = distributed.sum_over_ranks(torch.stack([*mine, tokens]))
        self._fresh_tokens = self._fresh_tokens + totals[-1].double()
        return samples, dict(zip(names, totals[:-1].unbind()))

    def _drawn(self, batch: Batch, micro: int, number: int, device: torch.device) -> Chunk:
        def draw() -> Chunk:
            moved = batch.to(device)
            return Chunk(moved, self.objective.draw_ahead(moved), micro, number)

        return self._beside.do(draw, Chunk.tensors)

    def _compare_over_the_step(self, objective: Contrastive, chunks: list[Chunk]) -> None:
        """The first of two passes, where the rows of a step are not all in one chunk."""
        objective.train()
        objective.begin_step()
        if len(chunks) == 1 and self.args.world_size == 1:
            return

        def before_each(number: int) -> None:
            self.seed_dropout_of(objective.seed, chunks[number].micro, chunks[number].number)

        with self.accelerator.autocast():
            over_the_step(
                objective,
                [(chunk.batch, chunk.drawn) for chunk in chunks],
                before_each,
                gather=distributed.gather_rows,
                turns=[chunk.micro for chunk in chunks],
            )

    # -- one step -----------------------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        chunks = cast(list[Chunk], inputs)
        model.train()
        losses = []
        for chunk in chunks:  # processes exchange gradients in the backward pass of the last one
            with nullcontext() if chunk is chunks[-1] else self.accelerator.no_sync(model):
                losses.append(self._learn(model, chunk, num_items_in_batch))
        if isinstance(self.objective, Contrastive):
            for parameter in self.objective.resting():
                parameter.grad = None  # rather than zero, with which momentum and decay would go on
        return torch.stack(losses).sum()

    def _learn(self, model: nn.Module, chunk: Chunk, totals: dict[str, Tensor]) -> Tensor:
        """Add a chunk's gradient to the step's; its share of the step's loss, times the processes."""
        self.seed_dropout_of(self.objective.seed, chunk.micro, chunk.number)
        with self.compute_loss_context_manager():
            parts = model(chunk.batch, chunk.drawn, totals)
        # Processes average their gradients; the parts are already shares of the step's mean.
        loss: Tensor = parts["loss"] * self.args.world_size
        self._check_finite(loss, chunk.batch)
        self.accelerator.backward(loss)
        self._keep_parts(parts)
        return loss.detach()

    def _check_finite(self, loss: Tensor, batch: Batch) -> None:
        """Stop at a loss that is no number. On an accelerator the previous chunk's loss is looked at, which has come
        meanwhile."""
        suspect: tuple[Coming, Batch] | None = (Coming(loss), batch)
        if loss.device.type != "cpu":
            suspect, self._unchecked = self._unchecked, suspect
        if suspect is None or math.isfinite(value := suspect[0].value):
            return
        path = self.run.path / f"nonfinite-step-{self.state.global_step}-rank-{distributed.rank()}.json"
        write_json(
            path,
            {
                "step": self.state.global_step,
                "loss": str(value),
                "epochs": suspect[1].epochs.tolist(),
                "row_ids": suspect[1].row_ids.tolist(),
                "token_ids": suspect[1].token_ids.tolist(),
            },
        )
        raise UserError(
            f"The loss became {value} at step {self.state.global_step}; the batch that caused it is in "
            f"'{path}'. Lower learning_rate or turn off bf16, and go on from the last checkpoint with --resume."
        )

    def _keep_parts(self, parts: dict[str, Tensor]) -> None:
        for name, value in parts.items():
            if name != "loss":
                self._sums[name] = self._sums.get(name, 0.0) + value.detach()

    @property
    def tokens_seen(self) -> int:
        """Tokens that all processes together have trained on."""
        self._tokens += int(self._fresh_tokens)
        self._fresh_tokens = 0.0
        return self._tokens

    # -- logging ------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        steps = self.state.global_step - self._logged_at
        if "loss" in logs and steps > 0 and self._sums:
            names = sorted(self._sums)
            sums = distributed.sum_over_ranks(torch.stack([self._sums[name] for name in names]))
            logs |= {name: value / steps for name, value in zip(names, sums.tolist())}
            self._sums, self._logged_at = {}, self.state.global_step
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        if self._evaluate_with is None:
            raise UserError("There are no held-out rows to evaluate on; set holdout above 0.")
        self.objective.eval()
        metrics = self._evaluate_with(self.objective)
        self.objective.train()
        self.log({f"eval_{name}": value for name, value in metrics.items()})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self._after_evaluation is not None:
            self._after_evaluation(self, metrics)
        return metrics

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:  # some versions of transformers call this on every process
            folder = Path(output_dir or self._get_output_dir())
            folder.mkdir(parents=True, exist_ok=True)
            save_model(self.objective, str(folder / WEIGHTS_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(self.objective, Path(resume_from_checkpoint) / WEIGHTS_NAME)

    def resume_from(self, checkpoint: Path) -> None:
        super().resume_from(checkpoint)
        self._logged_at = int(self.kept["step"])
