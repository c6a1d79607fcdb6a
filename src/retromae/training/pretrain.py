"""Pre-training from end to end: rows and a model in, a run folder with a checkpoint out."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar

from retromae.core import distributed
from retromae.core.config import write_yaml
from retromae.core.errors import UserError
from retromae.core.files import replacing_folder, restore
from retromae.core.locks import only_writer
from retromae.core.runs import Outcome, RunFolder, facts_about_here
from retromae.models.checkpoint import Checkpoint
from retromae.objectives import Batch, Objective
from retromae.text.rows import Rows
from retromae.training.batches import RankSampler, RowBatches, loader
from retromae.training.callbacks import Interruption, Stopping, Watching
from retromae.training.checkpoints import read_state
from retromae.training.chunks import cut
from retromae.training.judge import Judge
from retromae.training.row_plan import RowPlan
from retromae.training.schedule import Clock
from retromae.training.session import last_metrics, prepare_folder, required
from retromae.training.settings import Resolved, free_settings
from retromae.training.start import build_objective, open_start
from retromae.training.trainer import PretrainTrainer


def pretrain(settings: Resolved, *, resume: bool = False, console: Console | None = None) -> Outcome:
    """Pre-train as `settings` say and leave a run folder; with `resume` go on where one was interrupted."""
    disable_progress_bar()  # type: ignore[no-untyped-call]  # of transformers, for every file it writes
    config = settings.run
    if config.chunk_tokens < 0:
        raise UserError(f"chunk_tokens is {config.chunk_tokens}; give 0 for whole batches, or at least 1.")
    run = RunFolder(required(config.output_dir, "output_dir"))
    distributed.start()
    with only_writer(run.path):
        return _pretrain(settings, run, resume, console)


def _pretrain(settings: Resolved, run: RunFolder, resume: bool, console: Console | None) -> Outcome:
    config = settings.run
    free = free_settings(config)
    checkpoint = distributed.first_decides(lambda: prepare_folder(run, settings.flat(), free, resume=resume))
    if run.read_manifest().get("finished"):
        return Outcome(run.path, int(run.read_manifest()["steps"]), True, None, last_metrics(run))
    rows = Rows.open(required(config.rows, "rows"))
    torch.manual_seed(config.seed)  # fresh weights
    start = open_start(config, rows)
    objective = build_objective(settings, start)
    return _Session(settings, run, rows, start, objective, console).train(checkpoint)


class _Session:
    """One process's part in a run, from the first step it does to its end."""

    def __init__(
        self,
        settings: Resolved,
        run: RunFolder,
        rows: Rows,
        start: Checkpoint,
        objective: Objective,
        console: Console | None,
    ) -> None:
        self.settings, self.run, self.rows, self.start, self.objective = settings, run, rows, start, objective
        self.config = config = settings.run
        self.console = console if distributed.writes() else None
        self.device_is_gpu = torch.cuda.is_available()
        if config.gradient_checkpointing:
            objective.backbone.gradient_checkpointing()
        work = RowPlan.of(config, rows, start.tokenizer, objective.backbone.max_length)
        self.padding, self.plan = work.padding, work.batches
        self.train_rows, self.held_out = work.train_rows, work.held_out
        self.epochs, self.total_steps = self._length()
        self.clock = Clock(
            total_steps=self.total_steps,
            minutes=config.minutes,
            shape=config.lr_scheduler_type,
            warmup_ratio=config.warmup_ratio,
        )
        self.judge = Judge(
            settings, run, rows, self.held_out, start, self.padding, self.plan.tokens_per_batch, self._say
        )

    # -- set-up -------------------------------------------------------------------------------------------------

    def _length(self) -> tuple[int | None, int | None]:
        """(passes over the rows or None for endless, optimiser steps or None where time alone ends the run)"""
        config = self.config
        epochs = config.num_train_epochs
        if epochs is None and config.max_steps is None and config.minutes is None:
            epochs = 8
        if epochs is None:
            return None, config.max_steps
        steps = self.plan.steps_in(epochs)
        return epochs, min(steps, config.max_steps) if config.max_steps else steps

    def _arguments(self) -> TrainingArguments:
        config = self.config
        measures = "steps" if len(self.held_out) else "no"
        return TrainingArguments(
            output_dir=str(self.run.path),
            per_device_train_batch_size=config.per_device_train_batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            max_steps=self.total_steps or 1_000_000_000,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            adam_beta1=config.adam_beta1,
            adam_beta2=config.adam_beta2,
            adam_epsilon=config.adam_epsilon,
            max_grad_norm=config.max_grad_norm,
            optim="adamw_torch_fused",
            seed=config.seed,
            bf16=config.bf16,
            logging_steps=config.logging_steps,
            logging_nan_inf_filter=False,
            eval_strategy=measures,
            eval_steps=config.eval_steps,
            eval_on_start=measures == "steps" and self.run.latest() is None,
            save_strategy="steps",
            save_steps=config.save_steps,
            save_total_limit=config.save_total_limit,
            report_to=config.report_to or "none",
            ignore_data_skip=True,
            disable_tqdm=True,
            remove_unused_columns=False,
            ddp_find_unused_parameters=False,
            ddp_broadcast_buffers=False,
            use_cpu=not torch.cuda.is_available(),
        )

    # -- training -----------------------------------------------------------------------------------------------

    def train(self, checkpoint: Path | None) -> Outcome:
        distributed.first_decides(lambda: self._begin(checkpoint))
        distributed.barrier()
        arguments = self._arguments()
        interruption = Interruption()
        trainer = PretrainTrainer(
            self.objective,
            arguments,
            run=self.run,
            clock=self.clock,
            batches=self._batches,
            cut=partial(cut, tokens=self.config.chunk_tokens, multiple=self.padding.multiple),
            compiled=self.config.torch_compile,
            evaluate=self.judge.measure if len(self.held_out) else None,
            after_evaluation=self.judge.judge,
        )
        watching = Watching(self.run, self.clock, self.plan.steps_in(1), self.console)
        watching.tokens_seen = lambda: trainer.tokens_seen
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(Stopping(interruption, self.clock))
        trainer.add_callback(watching)
        if self.config.holdout != 0 and not len(self.held_out):
            self._say(
                "[yellow]Too few documents to hold any out: nothing tells whether this run works.[/yellow]"
            )
        steps = trainer.run_from(checkpoint, interruption, lambda: self._over(trainer))
        if interruption.agreed():
            return Outcome(self.run.path, steps, False, interruption.signal, self.judge.last)
        return self._finish(trainer, steps)

    def _over(self, trainer: PretrainTrainer) -> bool:
        """Has the run that a checkpoint comes from come to its end already?"""
        step, patience = int(trainer.kept["step"]), self.config.early_stopping_patience
        stopped = patience is not None and int(trainer.kept.get("worse", 0)) >= patience
        return stopped or self.clock.progress(step) >= 1.0

    def _batches(self, first_step: int) -> DataLoader[Batch]:
        sampler = RankSampler(
            self.plan,
            distributed.rank(),
            distributed.world_size(),
            first_step,
            self.total_steps or 1_000_000_000,
            self.epochs,
        )
        dataset = RowBatches(self.rows, self.padding, self.objective.backbone.vocab_size)
        return loader(
            dataset, sampler, workers=self.config.dataloader_num_workers, pin_memory=self.device_is_gpu
        )

    def _finish(self, trainer: PretrainTrainer, steps: int) -> Outcome:
        if len(self.held_out) and trainer.kept.get("measured_at") != steps:
            trainer.evaluate()
        if distributed.writes():
            restore(self.run.best)
            if self.config.keep_best and self.run.best.is_dir():
                with replacing_folder(
                    self.run.model
                ) as folder:  # a copy: a kill in between must find `best` again
                    shutil.copytree(self.run.best, folder, dirs_exist_ok=True)
            else:
                self.judge.save(self.objective, self.run.model, steps)
            self.run.update_manifest(finished=True, steps=steps, best=trainer.kept.get("best"))
            shutil.rmtree(self.run.best, ignore_errors=True)
        distributed.barrier()
        return Outcome(self.run.path, steps, True, None, self.judge.last)

    def _say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, soft_wrap=True)

    def _begin(self, checkpoint: Path | None) -> None:
        """Claim the run folder, now that rows and model are open and nothing more can be refused."""
        if checkpoint is not None:
            before, now = read_state(checkpoint)["batches_per_step"], self.plan.batches_per_step
            if before != now:
                raise UserError(
                    f"'{self.run.path}' takes {before} batches per step (processes × gradient_accumulation_steps), "
                    f"but now there would be {now}; start as many processes as before, or change "
                    "gradient_accumulation_steps so that the product stays the same."
                )
        self.run.path.mkdir(parents=True, exist_ok=True)
        self.run.clear_unfinished()
        if not self.run.used:
            write_yaml(self.run.config, self.settings.flat())
        self.run.truncate_metrics(int(checkpoint.name.split("-")[1]) if checkpoint else -1)
        self.run.update_manifest(
            **facts_about_here(),
            objective=self.config.objective,
            world_size=distributed.world_size(),
            rows={
                "path": str(self.config.rows),
                "fingerprint": self.rows.fingerprint,
                "rows": len(self.rows),
            },
            train_rows=len(self.train_rows),
            held_out_rows=len(self.held_out),
            probe={"queries": len(self.judge.probe.queries), "titles": self.judge.probe.titles}
            if self.judge.probe
            else None,
            tokens_per_batch=self.plan.tokens_per_batch,
            padding_waste=round(self.plan.waste(), 4),
            total_steps=self.total_steps,
            fresh=self.start.fresh,
        )
