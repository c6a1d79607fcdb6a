"""A comparison as its YAML states it. See docs/comparing.md for an example with every key.

data        names of data sets on the hub, fetched once and known as ${name} from then on
rows        token rows that are there, or `prepare`: the settings of `retromae prepare`
start       model_name_or_path, or the shape of a model from scratch
common      a pre-training that all arms go on from: its own rows, objective, settings and budget
pretrain    settings of `retromae pretrain` for all arms; those of an objective go to whoever has them
finetune    settings of `retromae finetune` for all arms; left out, nothing is fine-tuned
negatives   settings of `retromae mine`, to mine with BM25 once, for all arms; or published ones, `file` with a .jsonl
encoder     how texts become vectors in the tests, by the names that `retromae evaluate` uses
tests       what is measured
objectives  the arms; see `arms`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retromae.app.compare.arms import Arm, objective_options
from retromae.app.compare.budget import Budget
from retromae.app.encoders import EncoderSettings
from retromae.core.config import from_dict, options, setting
from retromae.core.errors import UserError
from retromae.evaluation.answers import accuracy_cut
from retromae.evaluation.benchmarks import benchmark
from retromae.evaluation.metrics import metric_name
from retromae.text.prepare import PrepareConfig
from retromae.training.finetune_settings import FinetuneConfig, check
from retromae.training.negatives import MineConfig
from retromae.training.settings import PretrainConfig, Resolved
from retromae.training.settings import resolve as resolve_settings


@dataclass
class EvalSet:
    """One thing that every arm is measured on."""

    beir: str = setting("", "folder of a retrieval set (BEIR, MS MARCO or DPR files)")
    name: str = setting("", "what it is called in the tables (default: the folder's name)")
    split: str | None = setting(None, "split (default: the set's own, mostly test)")
    metrics: list[str] = setting([], "what is measured, the first counts (default: the set's own)")
    zero_shot: bool = setting(False, "nothing was fine-tuned on this set")
    of: Literal["finetuned", "pretrained"] = setting("finetuned", "which of an arm's two models is measured")

    def complete(self, finetunes: bool) -> EvalSet:
        """With what was left out; refuses what cannot be."""
        if not self.beir:
            raise UserError("every entry of 'tests' needs beir, the folder of a retrieval set.")
        known = benchmark(Path(self.beir).resolve().name)
        of = self.of if finetunes else "pretrained"
        name = self.name or known.name + (" (not fine-tuned)" if finetunes and of == "pretrained" else "")
        metrics = [_metric(metric) for metric in self.metrics or [known.metric]]
        return EvalSet(self.beir, name, self.split or known.split, metrics, self.zero_shot, of)


@dataclass(frozen=True)
class Common:
    """The pre-training that all arms go on from."""

    settings: dict[str, Any]
    budget: Budget
    rows: str | None
    prepare: PrepareConfig | None


@dataclass(frozen=True)
class Comparison:
    """Everything that decides what is compared; the same file and flags give the same."""

    where: str
    folder: Path
    data: dict[str, str]
    rows: str | None
    prepare: PrepareConfig | None
    start: dict[str, Any]
    common: Common | None
    pretrain: dict[str, Any]
    finetune: dict[str, Any] | None
    negatives: MineConfig | None
    published_negatives: str | None
    encoder: EncoderSettings
    tests: list[EvalSet]
    arms: list[Arm]
    seeds: list[int]
    budget: Budget
    reference: str | None
    published: dict[str, dict[str, float]]
    expected: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str | None:
        """The model that everything starts from; None: one from scratch."""
        name = self.start.get("model_name_or_path")
        return str(name) if name is not None else None

    def pretraining(self, arm: Arm, **fixed: Any) -> Resolved:
        """The settings of an arm's pre-training; `fixed` are paths, seed and length."""
        general, own = {option.name for option in options(PretrainConfig)}, objective_options(arm.objective)
        shared = {name: value for name, value in self.pretrain.items() if name in general | own}
        values = {
            "keep_best": False,
            "logging_steps": 20,
            **shared,
            **arm.settings,
            "objective": arm.objective,
        }
        return resolve_settings({**values, **fixed}, f"{self.where}, arm {arm.name}")

    def described(self, arm: Arm) -> str:
        """How an arm differs from its objective's defaults: by its own settings and what `pretrain` has for it."""
        own = objective_options(arm.objective) - {option.name for option in options(PretrainConfig)}
        return arm.described({name: value for name, value in self.pretrain.items() if name in own})

    def finetuning(self, arm: Arm, **fixed: Any) -> FinetuneConfig:
        values = {**(self.finetune or {}), **arm.finetune, **fixed}
        config = from_dict(FinetuneConfig, values, f"{self.where}, arm {arm.name}")
        check(config)
        return config


def common_run(folder: Path) -> Path:
    """Where the pre-training lies that all arms go on from."""
    return folder / "common" / "run"


def fresh_start(folder: Path, seed: int) -> Path:
    """Where a seed's model from scratch lies."""
    return folder / "starts" / f"seed-{seed}" / "model"


def fetched(folder: Path, name: str) -> Path:
    """Where a data set of `data` lies."""
    return folder / "data" / name


def _metric(name: str) -> str:
    """Accuracy@k is what sets with answer strings are measured by; the rest has its own list."""
    cut = accuracy_cut(name)
    return metric_name(name) if cut is None else f"Accuracy@{cut}"
