"""A cross-encoder teacher from end to end: pairs and their negatives in, a run folder with a CrossEncoder out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments
from torch.utils.data import DataLoader
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar

from retromae.core import distributed
from retromae.core.config import write_yaml
from retromae.core.errors import UserError
from retromae.core.files import replacing_folder, write_json
from retromae.core.locks import only_writer
from retromae.core.runs import Outcome, RunFolder, facts_about_here
from retromae.training.callbacks import Interruption, Stopping, Watching
from retromae.training.checkpoints import read_state
from retromae.training.cross_encoder import is_cross_encoder, open_cross_encoder
from retromae.training.reranking import Reranking
from retromae.training.schedule import Clock
from retromae.training.scores import score_candidates
from retromae.training.session import last_metrics, measured_every, prepare_folder, required
from retromae.training.teacher_data import TeacherData, measuring, open_data
from retromae.training.teacher_groups import GroupPlan, Groups, GroupTexts, ShareOfPlan
from retromae.training.teacher_settings import FREE, TeacherConfig, check
from retromae.training.teacher_trainer import Keeping, TeacherTrainer

RECIPE_FILE = "teacher.json"
_ENDLESS = 1_000_000_000


def teach(
    config: TeacherConfig,
    *,
    evaluator: BaseEvaluator | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Train a teacher as `config` says and leave a run folder; with `resume` go on where one was interrupted."""
    return train_teacher(
        config, lambda: open_data(config), evaluator=evaluator, resume=resume, console=console
    )


def train_teacher(
    config: TeacherConfig,
    data: TeacherData | Callable[[], TeacherData],
    *,
    evaluator: BaseEvaluator | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Outcome:
    """The same with data at hand, or with what opens it when it is needed.

    `evaluator` measures while training, and its primary metric decides which weights are the best; left out, the
    candidates of the dev queries, or of queries held out from training, are re-ranked.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]  # of transformers, for every file it writes
    check(config)
    run = RunFolder(required(config.output_dir, "output_dir"))
    required(config.model_name_or_path, "model_name_or_path")
    distributed.start()
    with only_writer(run.path):
        return _teach(config, run, data, evaluator, resume, console)


def _teach(
    config: TeacherConfig,
    run: RunFolder,
    data: TeacherData | Callable[[], TeacherData],
    evaluator: BaseEvaluator | None,
    resume: bool,
    console: Console | None,
) -> Outcome:
    settings = asdict(config)
    checkpoint = distributed.first_decides(lambda: prepare_folder(run, settings, FREE, resume=resume))
    finished = bool(run.read_manifest().get("finished"))
    if finished:
        done = Outcome(run.path, int(run.read_manifest()["steps"]), True, None, last_metrics(run))
        if not config.score:
            return done
    opened = data() if callable(data) else data
    if not finished:
        done = _Session(config, run, opened, evaluator, console).train(checkpoint)
    if config.score and done.finished:
        score_candidates(
            open_cross_encoder(run.path),
            opened.pairs,
            opened.candidates,
            run.path / "scores",
            batch_tokens=config.batch_tokens,
            bf16=config.bf16,
            progress=console is not None,
        )
    return done


class _Session:
    """One process's part in a run, from the first step it does to its end."""

    def __init__(
        self,
        config: TeacherConfig,
        run: RunFolder,
        data: TeacherData,
        evaluator: BaseEvaluator | None,
        console: Console | None,
    ) -> None:
        self.config, self.run, self.data = config, run, data
        self.console = console if distributed.writes() else None
        self.groups = Groups(
            data.pairs, data.candidates, config.train_group_size, config.negatives_window, config.seed
        )
        self.trainable = rows = self.groups.trainable()
        if not len(rows):
            raise UserError(
                f"none of the {len(data.pairs)} queries has a negative: the candidates are empty, or hold nothing but "
                "known answers; mine them anew."
            )
        self.evaluator = evaluator
        if evaluator is None and config.eval_queries:
            rows, self.evaluator = measuring(data, rows, config)
        self.plan = GroupPlan(
            rows,
            config.per_device_train_batch_size,
            distributed.world_size() * config.gradient_accumulation_steps,
            config.seed,
        )
        self.total_steps = self._length()
        self.clock = Clock(
            total_steps=self.total_steps,
            minutes=config.minutes,
            shape=config.lr_scheduler_type,
            warmup_ratio=config.warmup_ratio,
        )
        self.fresh = not is_cross_encoder(config.model_name_or_path)
        self.model = open_cross_encoder(
            config.model_name_or_path,
            max_seq_length=config.max_seq_length,
            attn_implementation=config.attn_implementation,
            seed=config.seed,
        )
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})

    # -- set-up -------------------------------------------------------------------------------------------------

    def _length(self) -> int | None:
        """Optimiser steps, None where time alone ends the run."""
        config = self.config
        epochs = config.num_train_epochs
        if epochs is None and config.max_steps is None and config.minutes is None:
            epochs = 1
        ends = [self.plan.steps_in(epochs)] if epochs is not None else []
        return min(ends + ([config.max_steps] if config.max_steps is not None else []), default=None)

    def _arguments(self) -> CrossEncoderTrainingArguments:
        config = self.config
        measures = "steps" if self.evaluator is not None else "no"
        return CrossEncoderTrainingArguments(
            output_dir=str(self.run.path),
            per_device_train_batch_size=config.per_device_train_batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            max_steps=self.total_steps or _ENDLESS,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            optim="adamw_torch_fused",
            seed=config.seed,
            bf16=config.bf16,
            logging_steps=config.logging_steps,
            logging_nan_inf_filter=False,
            eval_strategy=measures,
            eval_steps=config.eval_steps or self._measured_every(),
            eval_on_start=measures == "steps" and self.run.latest() is None,
            save_strategy="steps",
            save_steps=config.save_steps,
            save_total_limit=config.save_total_limit,
            report_to=config.report_to or "none",
            ignore_data_skip=True,
            disable_tqdm=True,
            ddp_find_unused_parameters=False,
            ddp_broadcast_buffers=False,
            use_cpu=not torch.cuda.is_available(),
        )

    def _measured_every(self) -> int:
        if not self.total_steps:
            return 500
        config = self.config
        pairs = len(self.evaluator.passages) if isinstance(self.evaluator, Reranking) else 0
        per_step = config.per_device_train_batch_size * config.train_group_size * self.plan.batches_per_step
        return measured_every(self.total_steps, 5, pairs / per_step)

    def _batches(self, first_step: int) -> DataLoader[dict[str, Any]]:
        share = ShareOfPlan(
            self.plan,
            distributed.rank(),
            distributed.world_size(),
            first_step,
            self.total_steps or _ENDLESS,
        )
        texts = GroupTexts(self.groups, self.config.loss)
        return DataLoader(texts, batch_size=None, sampler=share, collate_fn=cast(Any, _as_it_is))

    # -- training -----------------------------------------------------------------------------------------------

    def train(self, checkpoint: Path | None) -> Outcome:
        distributed.first_decides(lambda: self._begin(checkpoint))
        distributed.barrier()
        interruption = Interruption()
        trainer = self._trainer(interruption)
        steps = trainer.run_from(checkpoint, interruption, lambda: self._over(trainer))
        if interruption.agreed():
            return Outcome(self.run.path, steps, False, interruption.signal, last_metrics(self.run))
        return self._finish(trainer, steps)

    def _trainer(self, interruption: Interruption) -> TeacherTrainer:
        config = self.config
        keeping = Keeping(self._save, config.keep_best, config.early_stopping_patience, not self.fresh)
        trainer = TeacherTrainer(
            self.model,
            self._arguments(),
            loss=config.loss,
            run=self.run,
            clock=self.clock,
            batches=self._batches,
            evaluator=self.evaluator,
            keeping=keeping,
        )
        watching = Watching(self.run, self.clock, self.plan.steps_per_pass, self.console)
        watching.tokens_seen = lambda: trainer.tokens_seen
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(Stopping(interruption, self.clock))
        trainer.add_callback(watching)
        return trainer

    def _over(self, trainer: TeacherTrainer) -> bool:
        """Has the run that a checkpoint comes from come to its end already?"""
        step, patience = int(trainer.kept["step"]), self.config.early_stopping_patience
        stopped = patience is not None and int(trainer.kept.get("worse", 0)) >= patience
        return stopped or self.clock.progress(step) >= 1.0

    def _finish(self, trainer: TeacherTrainer, steps: int) -> Outcome:
        if self.evaluator is not None and trainer.kept.get("measured_at") != steps:
            trainer.evaluate()
        if distributed.writes():
            if self.config.keep_best and trainer.kept.get("best") is not None:
                with replacing_folder(self.run.model) as folder:  # a copy: a kill must find `best` again
                    shutil.copytree(self.run.best, folder, dirs_exist_ok=True)
            else:
                self._save(self.run.model, steps, trainer.last)
            self.run.update_manifest(finished=True, steps=steps, best=trainer.kept.get("best"))
            shutil.rmtree(self.run.best, ignore_errors=True)
        distributed.barrier()
        return Outcome(self.run.path, steps, True, None, last_metrics(self.run))

    def _save(self, folder: Path, step: int, metrics: dict[str, float]) -> None:
        """The weights as they are, as a folder that CrossEncoder opens."""
        with replacing_folder(folder) as temporary:
            self.model.save_pretrained(str(temporary), model_name=self.run.path.name)
            provenance = {
                "base": self.config.model_name_or_path,
                "pairs": self.data.pairs.fingerprint,
                "steps": step,
                "measured": metrics,
            }
            write_json(temporary / RECIPE_FILE, {"settings": asdict(self.config), "provenance": provenance})

    def _begin(self, checkpoint: Path | None) -> None:
        """Claim the run folder, now that data and model are open and nothing more can be refused."""
        pairs, candidates = self.data.pairs, self.data.candidates
        if checkpoint is not None:
            self._same_work(checkpoint)
        self.run.path.mkdir(parents=True, exist_ok=True)
        self.run.clear_unfinished()
        if not self.run.used:
            write_yaml(self.run.config, asdict(self.config))
        self.run.truncate_metrics(int(checkpoint.name.split("-")[1]) if checkpoint else -1)
        measured = len(self.evaluator.queries) if isinstance(self.evaluator, Reranking) else None
        facts = {
            "pairs": {"source": str(pairs.source), "split": pairs.split, "fingerprint": pairs.fingerprint},
            "negatives": candidates.facts,
            "train_queries": len(self.plan.rows),
            "measured_queries": measured,
            "queries_without_negatives": len(pairs) - len(self.trainable),
            "total_steps": self.total_steps,
            "fresh": ["classification head"] if self.fresh else [],
        }
        self.run.update_manifest(**facts_about_here(), world_size=distributed.world_size(), **facts)
        self._say(
            f"{len(self.plan.rows):,} queries in groups of {self.config.train_group_size}, "
            f"{self.total_steps or 'any number of'} steps of "
            f"{self.plan.batch_size * self.plan.batches_per_step} groups"
        )
        if measured is None and self.evaluator is None and self.config.eval_queries:
            self._say("[yellow]Too few queries to hold any out: nothing tells whether it works.[/yellow]")

    def _same_work(self, checkpoint: Path) -> None:
        """Refuse to go on with other data, or with another number of groups in a step."""
        stated = self.run.read_manifest().get("pairs", {}).get("fingerprint")
        if stated != self.data.pairs.fingerprint:
            raise UserError(
                f"'{self.run.path}' was started on other pairs than '{self.data.pairs.source}' holds now; choose "
                "another output_dir."
            )
        before, now = read_state(checkpoint)["batches_per_step"], self.plan.batches_per_step
        if before != now:
            raise UserError(
                f"'{self.run.path}' takes {before} batches per step (processes × gradient_accumulation_steps), but now "
                f"there would be {now}; change gradient_accumulation_steps so that the product stays the same."
            )

    def _say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, soft_wrap=True)


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    return batch
