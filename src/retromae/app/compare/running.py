"""Doing what is not done: every arm with every seed, pre-trained, fine-tuned, measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from retromae.app.compare.ground import Ground
from retromae.app.compare.jobs import Job, alike, test_folder
from retromae.app.compare.settings import Comparison, EvalSet
from retromae.app.compare.stages import Stage, Stages
from retromae.app.compare.work import Opened, Stopwatch, with_length
from retromae.app.dev import finetune_on_dev
from retromae.app.evaluate import EvaluateConfig, evaluate
from retromae.app.ledger import State
from retromae.app.reports import warnings_of
from retromae.core import distributed
from retromae.core.errors import UserError
from retromae.core.files import remove_folder, replacing_folder
from retromae.core.locks import claim
from retromae.core.runs import RunFolder
from retromae.training.pretrain import pretrain
from retromae.training.session import went_through
from retromae.training.settings import Resolved

Say = Callable[[str], None]


class Runner:
    """Works off jobs. Every process of a group does the same; the first one writes."""

    def __init__(
        self, comparison: Comparison, ground: Ground, say: Say, console: Console | None, *, restart: bool
    ) -> None:
        self.comparison, self.ground, self.say, self.console = comparison, ground, say, console
        self.restart = restart
        self.stages = Stages(comparison, ground)

    def run(self, jobs: Sequence[Job]) -> list[Job]:
        """Do what is left of the jobs; gives those that another process is at work on.

        What can be refused is refused before the first begins.
        """
        todo = [job for job in jobs if self._left(job)]
        for arm in dict.fromkeys(job.arm.name for job in todo):
            first = next(job for job in todo if job.arm.name == arm)
            if first.arm.pretrains:
                Opened(self._settings(first), self.ground.rows)
        busy = []
        for job in todo:
            with claim(job.folder) as mine:
                awaited = self._awaited(job) if mine else None
                if mine and awaited is None:
                    self._do(job)
                    continue
                busy.append(job)
                whose = f"{awaited}, whose pre-training it shares" if awaited else "it"
                self.say(f"{job}: another process is at work on {whose}")
        return busy

    def state(self, job: Job, stage: Stage) -> State:
        def look() -> State:
            state = job.ledger.state(stage.name, stage.inputs)
            return "to do" if state == "finished" and not stage.folder.is_dir() else state

        return distributed.first_decides(look)

    def _awaited(self, job: Job) -> Job | None:
        """The one that another process is pre-training for this one too; whoever has it comes to this one later."""
        if self.state(job, self.stages.of(job)[0]) != "to do":
            return None
        arms = self.comparison.arms
        for other in alike(self.comparison, job):
            if arms.index(other.arm) < arms.index(job.arm):
                with claim(other.folder) as free:
                    if not free:
                        return other
        return None

    def _left(self, job: Job) -> bool:
        """Is anything left to do? What was trained with other settings is refused, unless it may be thrown away."""
        states = [(stage, self.state(job, stage)) for stage in self.stages.of(job)]
        for stage, state in states:
            if state == "changed" and not stage.name.startswith("test ") and not self.restart:
                changes = distributed.first_decides(lambda: job.ledger.changes(stage.name, stage.inputs))  # noqa: B023
                raise UserError(
                    f"{job}, {stage.name}, was made with other settings ({changes}); choose another output_dir, or "
                    "make it again with --restart."
                )
        left = any(state != "finished" for _, state in states)
        if not left:
            self.say(f"{job}: finished before")
        return left

    # -- doing --------------------------------------------------------------------------------------------------

    def _do(self, job: Job) -> None:
        for stage in self.stages.of(job):
            state = self.state(job, stage)
            if state == "finished":
                continue
            self.say(f"{job}: {stage.name}" + (", going on" if state == "interrupted" else ""))

            def begin(stage: Stage = stage, state: State = state) -> None:
                if state != "interrupted":
                    shutil.rmtree(stage.folder, ignore_errors=True)
                job.ledger.begin(stage.name, stage.inputs)

            distributed.first_decides(begin)
            if stage.name == "pretrained":
                result = self._pretrain(job, stage.folder)
            elif stage.name == "finetuned":
                result = self._finetune(job, stage.folder)
            else:
                test = next(test for test in self.comparison.tests if stage.name == f"test {test.name}")
                result = distributed.first_decides(lambda test=test: self._measure(job, test))  # type: ignore[misc]
            self._finish(job, stage, result)

    def _finish(self, job: Job, stage: Stage, result: Mapping[str, Any]) -> None:
        distributed.first_decides(lambda: job.ledger.finish(stage.name, stage.inputs, result))

    def _settings(self, job: Job) -> Resolved:
        """Of its pre-training, but for the length."""
        return self.comparison.pretraining(
            job.arm,
            seed=job.seed,
            rows=str(self.ground.rows.path),
            output_dir=str(job.folder / "pretrained"),
            model_name_or_path=self.ground.starts[job.seed].model,
        )

    def _pretrain(self, job: Job, folder: Path) -> dict[str, Any]:
        budget = self.comparison.budget
        settings = self._settings(job)
        shared = self._copied(job, folder)
        if shared is not None:
            return shared
        opened = Opened(settings, self.ground.rows)
        given = {*self.comparison.pretrain, *job.arm.settings}
        settings = with_length(settings, budget, opened.steps(budget), given)
        run, watch = RunFolder(folder), Stopwatch()
        with watch.running(run):
            outcome = went_through(pretrain(settings, resume=run.used, console=self.console))
        tokens, flops = opened.spent(outcome.steps)
        return {
            **{"steps": outcome.steps, "tokens": tokens, "flops": flops, "seconds": watch.seconds},
            "processes": distributed.world_size(),
        }

    def _copied(self, job: Job, folder: Path) -> dict[str, Any] | None:
        """What another arm's pre-training took, if it is this one's too and finished; `folder` is a copy of it then."""

        def copy() -> dict[str, Any] | None:
            if folder.exists():  # its own, begun before
                return None
            for other in alike(self.comparison, job):
                stage = self.stages.of(other)[0]
                if other.ledger.state(stage.name, stage.inputs) == "finished" and stage.folder.is_dir():
                    self.say(f"{job}: pre-trained as {other.arm.name}, so a copy of that")
                    with replacing_folder(folder) as temporary:
                        shutil.copytree(stage.folder, temporary, dirs_exist_ok=True)
                    return other.ledger.result(stage.name)
            return None

        return distributed.first_decides(copy)

    def _finetune(self, job: Job, folder: Path) -> dict[str, Any]:
        model = self.stages.model(job, "pretrained")
        config = self.stages.tuning(job, model_name_or_path=model, output_dir=str(folder))
        run, watch = RunFolder(folder), Stopwatch()
        with watch.running(run):
            outcome = went_through(finetune_on_dev(config, resume=run.used, console=self.console))
        best = run.read_manifest().get("best")
        return {
            "steps": outcome.steps,
            "seconds": watch.seconds,
            "best": best,
            "processes": distributed.world_size(),
        }

    def _measure(self, job: Job, test: EvalSet) -> dict[str, Any]:
        """Whether the test was in the training text is looked up for one arm: all have read the same."""
        vectors, arms = job.folder / ".vectors", self.comparison.arms
        looked_at = next((arm for arm in arms if arm.pretrains), arms[0])
        config = EvaluateConfig(
            beir=[test.beir],
            split=test.split,
            metrics=list(test.metrics),
            leakage=job.arm is looked_at and job.seed == self.comparison.seeds[0],
            vectors=str(vectors),
        )
        with distributed.alone():  # the other processes wait
            model = f"{job.arm.name}={self.stages.model(job, test.of)}" if job.arm.trains else "bm25"
            report = evaluate(model, config, self.comparison.encoder if job.arm.trains else None)
        results = [replace(outcome.results[0], name=job.arm.name) for outcome in report.sets]
        for metric in test.metrics:
            if any(metric not in result.metrics for result in results):
                raise UserError(
                    f"{test.name} cannot be measured by {metric}; it has {', '.join(results[0].metrics)}."
                )
        facts = {
            "split": test.split,
            "documents": sum(outcome.documents for outcome in report.sets),
            "queries": sum(len(result.queries) for result in results),
            "warnings": warnings_of(report),
        }
        with replacing_folder(test_folder(job, test)) as temporary:
            for number, result in enumerate(results):
                result.save(temporary / f"{number}.json")
        remove_folder(vectors)
        return facts
