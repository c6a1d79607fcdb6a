"""Fine-tuning from end to end: pairs and a model in, a run folder with a better retriever out.

A run is a chain of segments. Negatives that are mined anew (ANCE) begin one each; every segment ends with a
checkpoint, and the next one starts from it as a resumed run would. So a run that is killed anywhere, in the middle of
a refresh too, ends with the weights of one that was not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar

from retromae.core import distributed
from retromae.core.config import write_yaml
from retromae.core.errors import UserError
from retromae.core.files import replacing_folder
from retromae.core.locks import only_writer
from retromae.core.runs import Outcome, RunFolder, facts_about_here
from retromae.text.candidates import Candidates
from retromae.text.pairs import Lists, Pairs
from retromae.training.callbacks import Interruption, Stopping, Watching
from retromae.training.finetune_settings import FREE, FinetuneConfig, check
from retromae.training.finetune_trainer import Best, FinetuneTrainer, SegmentEnd
from retromae.training.groups import Groups, InOrder, Scores
from retromae.training.plan import NegativeDraws, QueryPlan
from retromae.training.refresh import Refreshing
from retromae.training.schedule import Clock
from retromae.training.session import last_logged, last_metrics, prepare_folder, required
from retromae.training.sources import given_negatives, teacher_scores, with_negatives
from retromae.training.student import Student

Judge = Callable[[SentenceTransformer], dict[str, float]]  # retrieval on other queries: name → value


def finetune(
    config: FinetuneConfig,
    *,
    judge: Judge | None = None,
    held_out: NDArray[np.int32] | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Fine-tune as `config` says and leave a run folder; with `resume` go on where one was interrupted.

    `judge` measures retrieval while training; among its figures must be `eval_metric`. `held_out` are numbers of
    queries that are not trained on.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]  # of transformers, for every file it writes
    check(config)
    distributed.start()
    with only_writer(required(config.output_dir, "output_dir")):
        return _finetune(config, judge, held_out, resume, console)


def _finetune(
    config: FinetuneConfig,
    judge: Judge | None,
    held_out: NDArray[np.int32] | None,
    resume: bool,
    console: Console | None,
) -> Outcome:
    run, checkpoint = claimed(config, resume)
    manifest = run.read_manifest()
    if manifest.get("finished"):
        return Outcome(run.path, int(manifest["steps"]), True, None, last_metrics(run))
    pairs = Pairs.open(required(config.pairs, "pairs"), config.split, cache=config.cache)
    torch.manual_seed(config.seed)  # fresh weights
    student = Student.open(config, pairs)
    queries = np.arange(len(pairs), dtype=np.int32)
    if held_out is not None:
        queries = np.setdiff1d(queries, held_out).astype(np.int32)
    return _Session(config, run, pairs, queries, student, judge, console).train(checkpoint)


def claimed(config: FinetuneConfig, resume: bool) -> tuple[RunFolder, Path | None]:
    """The run folder and the checkpoint to go on from; refuses what can be refused before anything is opened."""
    check(config)
    run = RunFolder(required(config.output_dir, "output_dir"))
    distributed.start()
    settings = asdict(config)
    return run, distributed.first_decides(lambda: prepare_folder(run, settings, FREE, resume=resume))


class _Session:
    """One process's part in a run, from the first step it does to its end."""

    def __init__(
        self,
        config: FinetuneConfig,
        run: RunFolder,
        pairs: Pairs,
        queries: NDArray[np.int32],
        student: Student,
        judge: Judge | None,
        console: Console | None,
    ) -> None:
        self.config, self.run, self.pairs, self.student = config, run, pairs, student
        self.console = console if distributed.writes() else None
        self.scores: Scores | None = None
        negatives = given_negatives(config, pairs)
        if config.teacher:
            if negatives is None:
                raise UserError("distillation needs negatives: give --negatives, or pairs that hold some.")
            queries = np.intersect1d(queries, with_negatives(config, pairs, negatives)).astype(np.int32)
        self.given = negatives
        world = distributed.world_size() if config.share_negatives else 1
        self.batch_size = config.per_device_train_batch_size * distributed.world_size()
        self.compared = config.per_device_train_batch_size * world
        self.plan = QueryPlan(pairs.positives, queries, self.batch_size, config.seed)
        self.steps = self._steps()
        self.batches = self.steps * config.gradient_accumulation_steps
        if config.teacher:
            assert negatives is not None
            groups = Groups(pairs, self.plan, self._draws(negatives))
            self.scores = teacher_scores(config, pairs, negatives, groups, self.batches, console=self.console)
        self.clock = Clock(
            total_steps=self.steps,
            minutes=config.minutes,
            shape=config.lr_scheduler_type,
            warmup_ratio=config.warmup_ratio,
        )
        self.refreshing = Refreshing(config, run, pairs, student, self.console)
        self.best = Best(config, run, student, judge, self.steps)

    def _steps(self) -> int:
        config = self.config
        if config.max_steps is not None:
            return config.max_steps
        per_pass = self.plan.batches_per_pass / config.gradient_accumulation_steps
        return max(1, round(config.num_train_epochs * per_pass))

    # -- the run ------------------------------------------------------------------------------------------------

    def train(self, checkpoint: Path | None) -> Outcome:
        distributed.first_decides(lambda: self._begin(checkpoint))
        distributed.barrier()
        interruption = Interruption()
        with interruption.listening():
            step = int(checkpoint.name.split("-")[1]) if checkpoint else 0
            while step < self.steps and not self._out_of_time() and not self.best.gave_up(step):
                if checkpoint is not None:
                    self.student.load(checkpoint)  # what mines is what was trained
                trainer = self._segment(step, interruption)
                if not interruption.agreed():
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
                    step = int(trainer.state.global_step)
                self.student.unwrap()
                if interruption.agreed():
                    return Outcome(self.run.path, step, False, interruption.signal, last_metrics(self.run))
                checkpoint = self.run.checkpoint(step)
        if checkpoint is not None:
            self.student.load(checkpoint)
        return self._finish(step)

    def _out_of_time(self) -> bool:
        return distributed.any_rank(self.clock.out_of_time)

    def _segment(self, step: int, interruption: Interruption) -> FinetuneTrainer:
        """The trainer of the steps up to the next refresh of the negatives."""
        config = self.config
        negatives = self.refreshing.at(step, self.given)
        draws = self._draws(negatives)
        groups = Groups(self.pairs, self.plan, draws, self.scores)
        trainer = FinetuneTrainer(
            self.run,
            self.student,
            self.student.loss(scored=self.scores is not None, passages=len(self.pairs.passages)),
            self._arguments(),
            groups.dataset(self.batches, numbers=self.config.reconstruction != "none"),
            self.clock,
        )
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        per_pass = self.plan.batches_per_pass / config.gradient_accumulation_steps
        watching = Watching(self.run, self.clock, per_pass, self.console)
        before = int(last_logged(self.run, "tokens"))
        watching.tokens_seen = lambda: before + trainer.tokens_seen
        trainer.add_callback(Stopping(interruption, self.clock))
        trainer.add_callback(SegmentEnd(self.refreshing.next_after(step, self.steps)))
        trainer.add_callback(self.best.callback(trainer))
        trainer.add_callback(watching)
        return trainer

    def _draws(self, negatives: Candidates | None) -> NegativeDraws | None:
        if self.config.group_size == 1:
            return None
        return NegativeDraws(
            self.plan,
            negatives.lists if negatives is not None else Lists.empty(len(self.pairs)),
            number=self.config.group_size - 1,
            window=self.config.negatives_window,
            passages=len(self.pairs.passages),
            repeat=bool(self.config.teacher),
        )

    def _arguments(self) -> SentenceTransformerTrainingArguments:
        config = self.config
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(self.run.path),
            per_device_train_batch_size=config.per_device_train_batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            max_steps=self.steps,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            optim="adamw_torch_fused",
            seed=config.seed,
            bf16=config.bf16,
            logging_steps=config.logging_steps,
            logging_nan_inf_filter=False,
            save_strategy="steps",
            save_steps=config.save_steps,
            save_total_limit=config.save_total_limit,
            report_to=config.report_to or "none",
            batch_sampler=InOrder,
            router_mapping=self.student.tasks(config.group_size),
            prompts=self.student.prompts(config.group_size),
            dataloader_num_workers=config.dataloader_num_workers,
            dataloader_drop_last=True,  # none is partly filled; without this every process says that it should be so
            disable_tqdm=True,
            ddp_find_unused_parameters=False,
            ddp_broadcast_buffers=False,
            use_cpu=not torch.cuda.is_available(),
        )
        # Several devices are torchrun's business: DataParallel would deal batches out against the plan.
        arguments._n_gpu = min(1, arguments.n_gpu)
        return arguments

    def _begin(self, checkpoint: Path | None) -> None:
        """Claim the run folder, now that data and model are open and nothing more can be refused."""
        now = self.batch_size * self.config.gradient_accumulation_steps
        effective = self.compared * self.config.group_size - 1
        work = {
            "fingerprint": self.pairs.fingerprint,
            "queries_per_step": now,
            "effective_negatives": effective,
        }
        if checkpoint is not None:
            self._same_work(work)
        self.run.path.mkdir(parents=True, exist_ok=True)
        self.run.clear_unfinished()
        if not self.run.used:
            write_yaml(self.run.config, asdict(self.config))
        self.run.truncate_metrics(int(checkpoint.name.split("-")[1]) if checkpoint else -1)
        self.clock.start(already=last_logged(self.run, "seconds"))
        self.run.update_manifest(
            **facts_about_here(),
            pairs={"source": str(self.config.pairs), "split": self.config.split, "queries": len(self.pairs)},
            **work,
            world_size=distributed.world_size(),
            passages_per_query=self.config.group_size,
            total_steps=self.steps,
            start=self.student.facts,
        )
        self._say(
            f"{len(self.plan.queries):,} queries, {len(self.pairs.passages):,} passages, {self.steps:,} steps of "
            f"{now}; each query is compared with its positive and {effective:,} negatives"
        )

    def _same_work(self, facts: dict[str, Any]) -> None:
        """Refuse to go on with other data, or with batches of another size."""
        before = self.run.read_manifest()
        changed = [
            f"{name} was {before[name]}, is {value}"
            for name, value in facts.items()
            if before.get(name, value) != value
        ]
        if changed:
            raise UserError(
                f"'{self.run.path}' cannot go on ({'; '.join(changed)}): take the same pairs, and let processes × "
                "per_device_train_batch_size × gradient_accumulation_steps give the same batches, or choose another "
                "output_dir."
            )

    def _finish(self, step: int) -> Outcome:
        self.best.measure_at_end(step)
        if distributed.writes():
            kept = self.best.kept
            if kept is not None and kept["step"] == 0:
                self._say(
                    "[bold]no checkpoint was better than the model it started from: model/ is that model[/bold]"
                )
            with replacing_folder(self.run.model) as folder:
                if kept is not None:  # a copy: a kill in between must find it again
                    shutil.copytree(self.run.best, folder, dirs_exist_ok=True)
                else:
                    self.student.save(folder)
            self.plan.batch(max(0, step * self.config.gradient_accumulation_steps - 1))
            self.run.update_manifest(
                finished=True,
                steps=step,
                best=kept,
                queries_left_out=self.plan.left_out,
                refreshes=self.refreshing.history(),
            )
            shutil.rmtree(self.run.best, ignore_errors=True)
            self.refreshing.clean()
        distributed.barrier()
        return Outcome(self.run.path, step, True, None, last_metrics(self.run))

    def _say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, soft_wrap=True)
