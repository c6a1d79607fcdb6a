"""The stages of a job, and what each stands on: whatever would make it come out otherwise."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from retromae.app.compare.arms import BM25
from retromae.app.compare.ground import Ground, Start, model_fingerprint
from retromae.app.compare.jobs import Job, test_folder
from retromae.app.compare.settings import Comparison, EvalSet
from retromae.app.compare.work import FREE
from retromae.app.curve_settings import MeasuredSet
from retromae.app.encoders import MACHINE
from retromae.core.config import fingerprint
from retromae.core.files import file_sha256
from retromae.text.pairs import Pairs
from retromae.training.finetune_settings import FinetuneConfig

_FREE_TUNING = {
    *("cache", "chunk_tokens", "dataloader_num_workers", "logging_steps", "model_name_or_path", "output_dir"),
    *("pairs", "report_to", "save_steps", "save_total_limit"),
}


@dataclass(frozen=True)
class Outline:
    """A stage as far as the comparison itself says it, before anything is there that it stands on."""

    name: str
    after: str | None  # the stage whose model it goes on from; None: the start
    settings: dict[str, Any]
    test: EvalSet | None = None  # if it is one

    @property
    def origin(self) -> str:
        """What its inputs call the model that it goes on from."""
        return {"pretrained": "start", "finetuned": "from"}.get(self.name, "model")


@dataclass(frozen=True)
class Stage:
    """A part of a job. `folder` is what it leaves."""

    name: str
    inputs: dict[str, Any]
    folder: Path


def outlines(comparison: Comparison, job: Job) -> list[Outline]:
    """In order."""
    arm, found = job.arm, list[Outline]()
    last = {"pretrained": "pretrained" if arm.pretrains else None}
    if arm.pretrains:
        found.append(Outline("pretrained", None, _pretraining(comparison, job)))
    last["finetuned"] = last["pretrained"]
    if arm.trains and comparison.finetune is not None:
        found.append(Outline("finetuned", last["pretrained"], _finetuning(comparison, job)))
        last["finetuned"] = "finetuned"
    return found + [
        Outline(f"test {test.name}", last[test.of], _testing(comparison, test), test)
        for test in comparison.tests
    ]


class Stages:
    """Of all jobs of a comparison, once there is what they stand on."""

    def __init__(self, comparison: Comparison, ground: Ground) -> None:
        self.comparison, self.ground = comparison, ground

    def of(self, job: Job) -> list[Stage]:
        """In order; each one's inputs hold those of the one that it builds on."""
        models: dict[str | None, str] = {None: self.start(job).fingerprint if job.arm.trains else BM25}
        found = []
        for outline in outlines(self.comparison, job):
            test = outline.test
            if outline.name == "pretrained":
                data, folder = {"rows": self.ground.rows.fingerprint}, job.folder / outline.name
            elif outline.name == "finetuned":
                config = self.tuning(job)
                data = {"pairs": pairs_content(config.pairs, config.split, config.cache)}
                if self.ground.published is not None:
                    data["published negatives"] = self.ground.published
                folder = job.folder / outline.name
            else:
                assert test is not None and test.split is not None  # completed
                data, folder = {"set": set_content(test.beir, test.split)}, test_folder(job, test)
            inputs = {**data, outline.origin: models[outline.after], **outline.settings}
            models[outline.name] = fingerprint(inputs)
            found.append(Stage(outline.name, inputs, folder))
        return found

    def start(self, job: Job) -> Start:
        if job.arm.model is not None:
            return Start(job.arm.model, model_fingerprint(job.arm.model))
        return self.ground.starts[job.seed]

    def tuning(self, job: Job, **fixed: Any) -> FinetuneConfig:
        return _tuning(self.comparison, job, self.ground.negatives, **fixed)

    def model(self, job: Job, which: str) -> str:
        """The model that a test or a training takes; an arm without that stage has the one before."""
        names = ["finetuned", "pretrained"] if which == "finetuned" else ["pretrained"]
        there = {stage.name: stage.folder / "model" for stage in self.of(job)}
        return next((str(there[name]) for name in names if name in there), self.start(job).model)


def _tuning(comparison: Comparison, job: Job, negatives: str | None, **fixed: Any) -> FinetuneConfig:
    mined = {"negatives": negatives} if negatives else {}
    return comparison.finetuning(job.arm, seed=job.seed, **mined, **fixed)


def _pretraining(comparison: Comparison, job: Job) -> dict[str, Any]:
    settings = comparison.pretraining(job.arm, seed=job.seed).flat()
    inputs = {name: value for name, value in settings.items() if name not in FREE}
    if job.arm.objective.endswith(".py"):
        inputs["objective's file"] = file_sha256(job.arm.objective)
    return {"budget": str(comparison.budget), **inputs}


def _finetuning(comparison: Comparison, job: Job) -> dict[str, Any]:
    mined = comparison.negatives
    config = _tuning(comparison, job, "mined" if mined else None)
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE_TUNING}
    # By how they are mined, not by where they lie.
    return settings if mined is None else {**settings, "negatives": vars(mined)}


def _testing(comparison: Comparison, test: EvalSet) -> dict[str, Any]:
    settings = asdict(comparison.encoder).items()
    encoder = {name: value for name, value in settings if name not in MACHINE}
    return {"split": test.split, "metrics": test.metrics, "encoder": encoder}


@cache
def pairs_content(source: str, split: str, cache_folder: str | None) -> str:
    return Pairs.open(source, split, cache=cache_folder).fingerprint


@cache
def set_content(folder: str, split: str) -> str:
    """What tells whether a set changed, on whichever machine it lies."""
    files = [Path(folder) / name for name, *_ in MeasuredSet("", folder, "in_domain", split).stamp()]
    digests = [[file.relative_to(folder).as_posix(), file_sha256(file)] for file in files]
    return hashlib.sha256(repr(digests).encode()).hexdigest()[:16]
