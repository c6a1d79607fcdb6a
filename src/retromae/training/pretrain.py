"""Pre-training from end to end: rows and a model in, a run folder with a checkpoint out."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar

from retromae.core import distributed
from retromae.core.config import read_yaml, write_yaml
from retromae.core.errors import UserError
from retromae.core.runs import RunFolder, facts_about_here
from retromae.models.backbone import Backbone
from retromae.models.checkpoint import Checkpoint, open_checkpoint, open_tokenizer, save
from retromae.objectives import Objective, Vocabulary, load
from retromae.text.rows import Rows
from retromae.text.vocabulary import tokenizer_fingerprint
from retromae.text.words import ordinary_ids, word_starts
from retromae.training.batches import BatchPlan, Padding, RankSampler, RowBatches, loader
from retromae.training.callbacks import Interruption, Stopping, Watching
from retromae.training.heldout import HeldOut, default_share, split
from retromae.training.probe import Probe
from retromae.training.schedule import Clock
from retromae.training.settings import FREE, PretrainConfig, Resolved
from retromae.training.trainer import PretrainTrainer, read_state


EMPTY = 0.02  # cls_use below this: the sentence vector carries nothing yet


@dataclass(frozen=True)
class Outcome:
    """What a call of `pretrain` ended with."""

    output_dir: Path
    steps: int
    finished: bool  # False: interrupted; `signal` says by what, and --resume goes on
    signal: int | None
    metrics: dict[str, float]  # the last measurement on held-out rows


def pretrain(settings: Resolved, *, resume: bool = False, console: Console | None = None) -> Outcome:
    """Pre-train as `settings` say and leave a run folder; with `resume` go on where one was interrupted."""
    disable_progress_bar()  # type: ignore[no-untyped-call]  # of transformers, for every file it writes
    config = settings.run
    run = RunFolder(_required(config.output_dir, "output_dir"))
    distributed.start()
    checkpoint = distributed.first_decides(lambda: _prepare_folder(run, settings, resume))
    if run.read_manifest().get("finished"):
        return Outcome(run.path, int(run.read_manifest()["steps"]), True, None, _last_metrics(run))
    rows = Rows.open(_required(config.rows, "rows"))
    torch.manual_seed(config.seed)  # fresh weights
    start = _open_start(config, rows)
    objective = build_objective(settings, start)
    return _Session(settings, run, rows, start, objective, console).train(checkpoint)


def build_objective(settings: Resolved, start: Checkpoint) -> Objective:
    """The objective on its backbone, its heads read from the checkpoint where it has them."""
    config = settings.run
    objective = load(config.objective)(
        start.backbone, settings.objective, vocabulary_of(start.tokenizer, start.backbone), config.seed
    )
    known = dict(heads_of(objective))
    fitting = {
        name: head for name, head in start.heads.items() if name in known and known[name].shape == head.shape
    }
    if set(fitting) == set(known):
        for name, head in fitting.items():
            known[name].data.copy_(head)
    return objective


def heads_of(objective: Objective) -> dict[str, torch.Tensor]:
    """The tensors that a checkpoint keeps besides the backbone, by name."""
    return {
        f"{part}.{name}": tensor
        for part, module in objective.heads().items()
        for name, tensor in module.state_dict(keep_vars=True).items()
    }


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, backbone: Backbone) -> Vocabulary:
    """What objectives know of a tokenizer; ids that only the model has are special."""
    if tokenizer.mask_token_id is None:
        raise UserError(
            "The tokenizer has no mask token, which masked auto-encoding needs; choose another model."
        )

    def table(flags: np.ndarray) -> torch.Tensor:
        out = torch.zeros(backbone.vocab_size, dtype=torch.bool)
        out[: len(flags)] = torch.from_numpy(np.asarray(flags, dtype=bool))
        return out

    return Vocabulary(tokenizer.mask_token_id, table(word_starts(tokenizer)), table(ordinary_ids(tokenizer)))


def _required(value: str, name: str) -> str:
    if not value:
        raise UserError(f"Please say {name}: give --{name} or write it into the settings file.")
    return value


def _prepare_folder(run: RunFolder, settings: Resolved, resume: bool) -> Path | None:
    """Check that this run may write here; gives the checkpoint to go on from."""
    if run.used and not resume:
        raise UserError(
            f"'{run.path}' already holds a run; add --resume to go on with it, or choose another output_dir."
        )
    if run.used:
        _same_settings(run, settings)
    elif run.path.exists() and any(run.path.iterdir()):
        raise UserError(f"'{run.path}' is not empty and holds no run of ours; choose another output_dir.")
    return run.latest()


def _same_settings(run: RunFolder, settings: Resolved) -> None:
    before, now = read_yaml(run.config), settings.flat()
    changed = [name for name in now if name not in FREE and before.get(name) != now[name]]
    if changed:
        differences = "; ".join(f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in changed)
        raise UserError(
            f"'{run.path}' was started with other settings ({differences}); "
            "resume with the same ones, or choose another output_dir."
        )


def _open_start(config: PretrainConfig, rows: Rows) -> Checkpoint:
    """The model to start from: a checkpoint, or fresh weights around the tokenizer of the rows."""
    if config.model_name_or_path is not None:
        start = open_checkpoint(
            config.model_name_or_path,
            attn_implementation=config.attn_implementation,
            dropout=config.dropout,
        )
        _check_tokenizer(rows, start)
        return start
    if rows.tokenizer_path is None:
        raise UserError(
            f"'{config.rows}' holds no tokenizer, so a model from scratch cannot be made for it; "
            "give model_name_or_path, or prepare the rows with `retromae prepare`."
        )
    tokenizer = open_tokenizer(rows.tokenizer_path)
    backbone = Backbone.from_scratch(
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        len(tokenizer),
        config.max_seq_length,
        0.1 if config.dropout is None else config.dropout,
        config.model_type,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=config.attn_implementation,
    )
    return Checkpoint(backbone, tokenizer, {}, {}, list(backbone.fresh), config.max_seq_length)


def _check_tokenizer(rows: Rows, start: Checkpoint) -> None:
    """Rows that we prepared know which tokenizer their ids belong to; foreign ones are checked batch by batch."""
    if rows.info is not None and rows.info.tokenizer_fingerprint != tokenizer_fingerprint(start.tokenizer):
        raise UserError(
            f"'{rows.path}' was prepared with another tokenizer than the model's; prepare the text again with "
            "--tokenizer set to the model."
        )


def _last_metrics(run: RunFolder) -> dict[str, float]:
    """The last evaluation that the run logged."""
    if not run.metrics.is_file():
        return {}
    for line in reversed(run.metrics.read_text(encoding="utf-8").splitlines()):
        record = json.loads(line)
        if any(name.startswith("eval_") for name in record):
            return {n.removeprefix("eval_"): v for n, v in record.items() if n.startswith("eval_")}
    return {}


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
        self.padding = self._padding()
        share = default_share(len(rows)) if config.holdout is None else config.holdout
        self.train_rows, self.held_out = split(rows, share, config.eval_rows)
        if not len(self.train_rows):
            raise UserError(f"'{config.rows}' has no rows left to train on; lower holdout.")
        self.plan = self._plan()
        self.epochs, self.total_steps = self._length()
        self.clock = Clock(
            total_steps=self.total_steps,
            minutes=config.minutes,
            shape=config.lr_scheduler_type,
            warmup_ratio=config.warmup_ratio,
        )
        self.probe = Probe.build(rows, self.held_out, config.probe_queries) if config.probe_queries else None
        self.last_measured: dict[str, float] = {}
        self.told = False  # what to do about an empty [CLS], which is said once

    # -- set-up -------------------------------------------------------------------------------------------------

    def _padding(self) -> Padding:
        config, tokenizer = self.config, self.start.tokenizer
        if config.max_seq_length > self.objective.backbone.max_length:
            raise UserError(
                f"max_seq_length is {config.max_seq_length}, but this model has positions for "
                f"{self.objective.backbone.max_length} tokens; lower it."
            )
        multiple = config.pad_to_multiple_of or (8 if self.device_is_gpu else 1)
        return Padding(
            tokenizer.cls_token_id,
            tokenizer.sep_token_id,
            tokenizer.pad_token_id,
            config.max_seq_length,
            multiple,
        )

    def _plan(self) -> BatchPlan:
        config = self.config
        lengths = self.rows.lengths[self.train_rows]
        mean = float(self.padding.length(lengths).mean())
        budget = config.tokens_per_batch or round(config.per_device_train_batch_size * mean)
        world = distributed.world_size()
        return BatchPlan(
            self.train_rows,
            lengths,
            self.padding,
            budget,
            config.seed,
            batches_per_step=world * config.gradient_accumulation_steps,
        )

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
            torch_compile=config.torch_compile,
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
            evaluate=self._measure if len(self.held_out) else None,
            after_evaluation=self._judge,
        )
        watching = Watching(self.run, self.clock, self.plan.steps_in(1), self.console)
        watching.tokens_seen = lambda: trainer.tokens_seen
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(Stopping(interruption, self.clock))
        trainer.add_callback(watching)
        if self.config.holdout != 0 and not len(self.held_out):
            self._say("[yellow]Too few documents to hold any out: nothing tells whether this run works.[/yellow]")
        self.clock.start()
        if checkpoint is not None:
            trainer.resume_from(checkpoint)
        with interruption.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        steps = int(trainer.state.global_step)
        if interruption.signal is not None:
            return Outcome(self.run.path, steps, False, interruption.signal, self.last_measured)
        return self._finish(trainer, steps)

    def _batches(self, first_step: int) -> Any:
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
            if self.config.keep_best and self.run.best.is_dir():
                shutil.rmtree(self.run.model, ignore_errors=True)
                self.run.best.rename(self.run.model)
            else:
                self._save(self.run.model, steps)
            self.run.update_manifest(finished=True, steps=steps, best=trainer.kept.get("best"))
        distributed.barrier()
        return Outcome(self.run.path, steps, True, None, self.last_measured)

    # -- watching -----------------------------------------------------------------------------------------------

    def _measure(self, objective: Objective) -> dict[str, float]:
        device = next(objective.parameters()).device
        autocast = partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=self.config.bf16)
        held_out = HeldOut(
            self.rows, self.held_out, self.padding, self.plan.tokens_per_batch, objective.backbone.vocab_size
        )
        metrics = held_out.measure(objective, device, autocast)
        if self.probe is not None:
            with autocast():
                metrics |= self.probe.run(
                    objective.backbone, self.padding, device, self.plan.tokens_per_batch
                )
        self.last_measured = metrics
        return metrics

    def _judge(self, trainer: PretrainTrainer, metrics: dict[str, float]) -> None:
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
                self._save(self.run.best, step)
        else:
            trainer.kept["worse"] = int(trainer.kept.get("worse", 0)) + 1
            if trainer.kept["worse"] == self.config.early_stopping_patience:
                trainer.control.should_training_stop = trainer.control.should_save = True
                self._say(
                    f"The retrieval probe has not improved for {trainer.kept['worse']} measurements: stopping."
                )

    def _warn(self, metrics: dict[str, float], step: int) -> None:
        use = metrics.get("cls_use")
        if use is not None and use < EMPTY and step > 0:
            told, self.told = self.told, True
            advice = (
                ""
                if told
                else (
                    " The decoder rebuilds from word frequencies and its own context. If this lasts, set hide_schedule "
                    "to 0.3, take more and smaller steps, or start from a trained language model."
                )
            )
            self._say(f"[yellow]\\[CLS] carries almost nothing yet (cls_use {use:.3f}).{advice}[/yellow]")

    def _say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, soft_wrap=True)

    def _save(self, folder: Path, step: int) -> None:
        recipe = {
            "objective": self.config.objective,
            "settings": self.settings.flat(),
            "provenance": {
                "rows": self.rows.fingerprint,
                "base": self.config.model_name_or_path,
                "steps": step,
                "measured": self.last_measured,
            },
        }
        heads = heads_of(self.objective)
        save(folder, self.objective.backbone, self.start.tokenizer, heads, recipe, self.config.max_seq_length)

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
            probe={"queries": len(self.probe.queries), "titles": self.probe.titles} if self.probe else None,
            tokens_per_batch=self.plan.tokens_per_batch,
            padding_waste=round(self.plan.waste(), 4),
            total_steps=self.total_steps,
            fresh=self.start.fresh,
        )
