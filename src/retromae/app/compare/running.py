"""Doing what is not done: every arm with every seed, pre-trained, fine-tuned, measured."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console

from retromae.app.compare.ground import Ground, Start, model_fingerprint
from retromae.app.compare.jobs import FACTS, Job, test_folder
from retromae.app.compare.settings import Comparison, EvalSet
from retromae.app.compare.work import FREE, Opened, Stopwatch, with_length
from retromae.app.curve_settings import MeasuredSet
from retromae.app.dev import finetune_on_dev
from retromae.app.encoders import MACHINE
from retromae.app.evaluate import EvaluateConfig, evaluate
from retromae.app.ledger import State
from retromae.app.reports import warnings_of
from retromae.core import distributed
from retromae.core.config import fingerprint
from retromae.core.errors import UserError
from retromae.core.files import file_sha256, remove_folder, replacing_folder, write_json
from retromae.core.locks import claim
from retromae.core.runs import RunFolder
from retromae.text.pairs import Pairs
from retromae.training.finetune_settings import FinetuneConfig
from retromae.training.pretrain import pretrain
from retromae.training.session import went_through
from retromae.training.settings import Resolved

Say = Callable[[str], None]
_FREE_TUNING = {
    *("cache", "chunk_tokens", "dataloader_num_workers", "logging_steps", "model_name_or_path", "output_dir"),
    *("pairs", "report_to", "save_steps", "save_total_limit"),
}


@dataclass(frozen=True)
class Stage:
    """A part of a job. `folder` is what it leaves."""

    name: str
    inputs: dict[str, Any]
    folder: Path


class Runner:
    """Works off jobs. Every process of a group does the same; the first one writes."""

    def __init__(
        self, comparison: Comparison, ground: Ground, say: Say, console: Console | None, *, restart: bool
    ) -> None:
        self.comparison, self.ground, self.say, self.console = comparison, ground, say, console
        self.restart = restart

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
                if mine:
                    self._do(job)
                else:
                    busy.append(job)
                    self.say(f"{job}: another process is at work on it")
        return busy

    # -- stages -------------------------------------------------------------------------------------------------

    def stages(self, job: Job) -> list[Stage]:
        """In order; each one's inputs hold those of the one that it builds on."""
        found: list[Stage] = []
        models = {"pretrained": self._start(job).fingerprint if job.arm.trains else "bm25"}
        if job.arm.pretrains:
            found.append(Stage("pretrained", self._pretraining(job), job.folder / "pretrained"))
            models["pretrained"] = fingerprint(found[-1].inputs)
        models["finetuned"] = models["pretrained"]
        if job.arm.trains and self.comparison.finetune is not None:
            inputs = {"from": models["pretrained"], **self._finetuning_inputs(job)}
            found.append(Stage("finetuned", inputs, job.folder / "finetuned"))
            models["finetuned"] = fingerprint(inputs)
        for test in self.comparison.tests:
            inputs = {"model": models[test.of], **self._testing(test)}
            found.append(Stage(f"test {test.name}", inputs, test_folder(job, test)))
        return found

    def _pretraining(self, job: Job) -> dict[str, Any]:
        settings = self.comparison.pretraining(job.arm, seed=job.seed).flat()
        inputs = {name: value for name, value in settings.items() if name not in FREE}
        if job.arm.objective.endswith(".py"):
            inputs["objective's file"] = file_sha256(job.arm.objective)
        origin = {"rows": self.ground.rows.fingerprint, "start": self.ground.starts[job.seed].fingerprint}
        return {**origin, "budget": str(self.comparison.budget), **inputs}

    def _start(self, job: Job) -> Start:
        if job.arm.model is not None:
            return Start(job.arm.model, model_fingerprint(job.arm.model))
        return self.ground.starts[job.seed]

    def _tuning(self, job: Job, **fixed: Any) -> FinetuneConfig:
        mined = {"negatives": self.ground.negatives} if self.ground.negatives else {}
        return self.comparison.finetuning(job.arm, seed=job.seed, **mined, **fixed)

    def _finetuning_inputs(self, job: Job) -> dict[str, Any]:
        config = self._tuning(job)
        settings = {name: value for name, value in asdict(config).items() if name not in _FREE_TUNING}
        if self.comparison.negatives is not None:  # by how they are mined, not by where they lie
            settings["negatives"] = vars(self.comparison.negatives)
        return {"pairs": _pairs(config.pairs, config.split, config.cache), **settings}

    def _testing(self, test: EvalSet) -> dict[str, Any]:
        encoder = {
            name: value for name, value in asdict(self.comparison.encoder).items() if name not in MACHINE
        }
        assert test.split is not None  # completed
        return {
            "set": _content(test.beir, test.split),
            "split": test.split,
            "metrics": test.metrics,
            "encoder": encoder,
        }

    def state(self, job: Job, stage: Stage) -> State:
        def look() -> State:
            state = job.ledger.state(stage.name, stage.inputs)
            return "to do" if state == "finished" and not stage.folder.is_dir() else state

        return distributed.first_decides(look)

    def _left(self, job: Job) -> bool:
        """Is anything left to do? What was trained with other settings is refused, unless it may be thrown away."""
        states = [(stage, self.state(job, stage)) for stage in self.stages(job)]
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
        for stage in self.stages(job):
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

    def _finetune(self, job: Job, folder: Path) -> dict[str, Any]:
        model = self._model(job, "pretrained")
        config = self._tuning(job, model_name_or_path=model, output_dir=str(folder))
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

    def _model(self, job: Job, which: str) -> str:
        """The model that a test or a training takes; an arm without that stage has the one before."""
        names = ["finetuned", "pretrained"] if which == "finetuned" else ["pretrained"]
        there = {stage.name: stage.folder / "model" for stage in self.stages(job)}
        return next((str(there[name]) for name in names if name in there), self._start(job).model)

    def _measure(self, job: Job, test: EvalSet) -> dict[str, Any]:
        """Whether the test was in the training text is looked up for one arm: all have read the same."""
        vectors, arms = job.folder / ".vectors", self.comparison.arms
        looked_at = next((arm for arm in arms if arm.pretrains), arms[0])
        config = EvaluateConfig(
            beir=[test.beir],
            split=test.split,
            metrics=[metric for metric in test.metrics if not metric.startswith("Accuracy@")] or ["nDCG@10"],
            leakage=job.arm is looked_at and job.seed == self.comparison.seeds[0],
            vectors=str(vectors),
        )
        with distributed.alone():  # the other processes wait
            model = f"{job.arm.name}={self._model(job, test.of)}" if job.arm.trains else "bm25"
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
            write_json(temporary / FACTS, facts)
        remove_folder(vectors)
        return facts


@cache
def _pairs(source: str, split: str, cache_folder: str | None) -> str:
    return Pairs.open(source, split, cache=cache_folder).fingerprint


@cache
def _content(folder: str, split: str) -> str:
    """What tells whether a set changed, on whichever machine it lies."""
    files = [Path(folder) / name for name, *_ in MeasuredSet("", folder, "in_domain", split).stamp()]
    digests = [[file.relative_to(folder).as_posix(), file_sha256(file)] for file in files]
    return hashlib.sha256(repr(digests).encode()).hexdigest()[:16]
