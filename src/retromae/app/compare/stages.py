"""The stages of a job, and what each stands on: whatever would make it come out otherwise."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

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
class Stage:
    """A part of a job. `folder` is what it leaves."""

    name: str
    inputs: dict[str, Any]
    folder: Path


class Stages:
    """Of all jobs of a comparison, once there is what they stand on."""

    def __init__(self, comparison: Comparison, ground: Ground) -> None:
        self.comparison, self.ground = comparison, ground

    def of(self, job: Job) -> list[Stage]:
        """In order; each one's inputs hold those of the one that it builds on."""
        found: list[Stage] = []
        models = {"pretrained": self.start(job).fingerprint if job.arm.trains else "bm25"}
        if job.arm.pretrains:
            found.append(Stage("pretrained", self._pretraining(job), job.folder / "pretrained"))
            models["pretrained"] = fingerprint(found[-1].inputs)
        models["finetuned"] = models["pretrained"]
        if job.arm.trains and self.comparison.finetune is not None:
            inputs = {"from": models["pretrained"], **self._finetuning(job)}
            found.append(Stage("finetuned", inputs, job.folder / "finetuned"))
            models["finetuned"] = fingerprint(inputs)
        for test in self.comparison.tests:
            inputs = {"model": models[test.of], **self._testing(test)}
            found.append(Stage(f"test {test.name}", inputs, test_folder(job, test)))
        return found

    def start(self, job: Job) -> Start:
        if job.arm.model is not None:
            return Start(job.arm.model, model_fingerprint(job.arm.model))
        return self.ground.starts[job.seed]

    def tuning(self, job: Job, **fixed: Any) -> FinetuneConfig:
        mined = {"negatives": self.ground.negatives} if self.ground.negatives else {}
        return self.comparison.finetuning(job.arm, seed=job.seed, **mined, **fixed)

    def model(self, job: Job, which: str) -> str:
        """The model that a test or a training takes; an arm without that stage has the one before."""
        names = ["finetuned", "pretrained"] if which == "finetuned" else ["pretrained"]
        there = {stage.name: stage.folder / "model" for stage in self.of(job)}
        return next((str(there[name]) for name in names if name in there), self.start(job).model)

    def _pretraining(self, job: Job) -> dict[str, Any]:
        settings = self.comparison.pretraining(job.arm, seed=job.seed).flat()
        inputs = {name: value for name, value in settings.items() if name not in FREE}
        if job.arm.objective.endswith(".py"):
            inputs["objective's file"] = file_sha256(job.arm.objective)
        origin = {"rows": self.ground.rows.fingerprint, "start": self.ground.starts[job.seed].fingerprint}
        return {**origin, "budget": str(self.comparison.budget), **inputs}

    def _finetuning(self, job: Job) -> dict[str, Any]:
        config = self.tuning(job)
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


@cache
def _pairs(source: str, split: str, cache_folder: str | None) -> str:
    return Pairs.open(source, split, cache=cache_folder).fingerprint


@cache
def _content(folder: str, split: str) -> str:
    """What tells whether a set changed, on whichever machine it lies."""
    files = [Path(folder) / name for name, *_ in MeasuredSet("", folder, "in_domain", split).stamp()]
    digests = [[file.relative_to(folder).as_posix(), file_sha256(file)] for file in files]
    return hashlib.sha256(repr(digests).encode()).hexdigest()[:16]
