"""What is compared: an objective with its own settings, under a name of its own.

objectives:
  - mlm                                                           # as published
  - {name: retromae-basic, objective: retromae, decoder: basic}   # an ablation
  - {objective: dupmae, finetune: {lexical_terms: 384}}           # fine-tuned in its own way
  - none                                                          # the common start, fine-tuned at once
  - {name: roberta, objective: none, model_name_or_path: roberta-base}   # another start, likewise
  - bm25                                                          # for orientation
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retromae.core.config import options, unknown_key
from retromae.core.errors import UserError
from retromae.objectives import available, load
from retromae.training.finetune_settings import FinetuneConfig
from retromae.training.settings import PretrainConfig

NONE, BM25 = "none", "bm25"
SHAPE = ("model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
# What makes a comparison fair is said once, for all arms.
_OF_THE_COMPARISON = {
    **{"rows": "rows or prepare", "output_dir": "output_dir", "objective": "objectives", "seed": "seeds"},
    **dict.fromkeys(("max_steps", "minutes", "num_train_epochs"), "budget"),
    **dict.fromkeys(("model_name_or_path", *SHAPE), "start"),
}
_OF_AN_ARM = {
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("warmup_ratio", "lr_scheduler_type", "dropout", "keep_best"),
}
_FINETUNE_FIXED = {"model_name_or_path": "start", "output_dir": "output_dir", "seed": "seeds"}
_FINETUNE_SHARED = {  # data, length and batches; an arm may have its own form of vectors, losses and rates
    *("pairs", "split", "cache", "query_max_len", "passage_max_len", "negatives", "train_group_size"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "share_negatives"),
    *("num_train_epochs", "max_steps", "minutes"),
    *("eval_split", "eval_steps", "eval_queries", "eval_passages", "eval_metric", "early_stopping_patience"),
}


@dataclass(frozen=True)
class Arm:
    """One line of the tables."""

    name: str
    objective: str
    settings: dict[str, Any] = field(
        default_factory=dict
    )  # of the objective, and its own learning rate and such
    finetune: dict[str, Any] = field(default_factory=dict)
    model: str | None = None  # what it starts from instead of the common start; nothing is pre-trained then

    @property
    def pretrains(self) -> bool:
        return self.objective not in (NONE, BM25)

    @property
    def trains(self) -> bool:
        return self.objective != BM25

    def described(self, shared: Mapping[str, Any] | None = None) -> str:
        """What differs from the objective's defaults, in words; `shared`: what all with its objective have."""
        settings = {**(shared or {}), **self.settings}
        parts = [f"{name} {value}" for name, value in (*settings.items(), *self.finetune.items())]
        return ", ".join([*([f"starts from {self.model}"] if self.model else []), *parts])


def read_arms(listed: Any, where: str) -> list[Arm]:
    """The arms of the list `objectives`; two of one name are refused."""
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{where}: 'objectives' must be a list of names, or of settings with an objective.")
    arms = [_arm(entry, where) for entry in listed]
    for arm in arms:
        if sum(other.name == arm.name for other in arms) > 1:
            raise UserError(f"{where}: two arms are called '{arm.name}'; give each a name of its own.")
    return arms


def chosen(arms: Sequence[Arm], names: Sequence[str], where: str) -> list[Arm]:
    """The arms of these names, in this order; a name that no arm has is an objective with its own defaults."""
    known = {arm.name: arm for arm in arms}
    for name in names:
        if name not in known and name not in (NONE, BM25) and name not in available() and "." not in name:
            raise UserError(
                f"{where}: unknown objective '{name}'; known are {', '.join(dict.fromkeys([*known, *available()]))}."
            )
    return read_arms([known.get(name) or name for name in names], where)


def objective_options(name: str) -> set[str]:
    return {option.name for option in options(load(name).Config)} if name not in (NONE, BM25) else set()


def _arm(entry: Any, where: str) -> Arm:
    if isinstance(entry, Arm):
        return entry
    values: dict[str, Any] = {"objective": entry} if isinstance(entry, str) else entry
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise UserError(
            f"{where}: {entry!r} is neither an objective nor settings with a name and an objective."
        )
    values = {key.replace("-", "_"): value for key, value in values.items()}
    name = str(values.pop("name", None) or values.get("objective", ""))
    objective = str(values.pop("objective", name))
    name = re.sub(r".*/|\.py$", "", name)
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(
            f"{where}: an arm is called {name!r}; names have letters, digits and . _ + - in them."
        )
    finetune = values.pop("finetune", None) or {}
    if not isinstance(finetune, Mapping):
        raise UserError(f"{where}, {name}: 'finetune' must hold settings of fine-tuning.")
    model = values.pop("model_name_or_path", None) if objective == NONE else None
    tuning = {str(key).replace("-", "_"): value for key, value in finetune.items()}
    arm = Arm(name, objective, values, tuning, None if model is None else str(model))
    _check(arm, f"{where}, arm {name}")
    return arm


def _check(arm: Arm, where: str) -> None:
    if arm.name in (NONE, BM25) and arm.objective != arm.name:
        raise UserError(
            f"{where}: the name '{arm.name}' stands for the arm without an objective; choose another."
        )
    own = objective_options(arm.objective)  # refuses an unknown objective
    if arm.settings and not arm.pretrains:
        raise UserError(
            f"{where}: {', '.join(arm.settings)} cannot be set, for nothing is pre-trained there."
        )
    if arm.finetune and not arm.trains:
        raise UserError(f"{where}: BM25 is not fine-tuned; leave finetune out.")
    for key in arm.settings:
        if key in _OF_THE_COMPARISON:
            raise UserError(
                f"{where}: '{key}' is the same for all arms; say it as {_OF_THE_COMPARISON[key]}."
            )
        if key not in own | _OF_AN_ARM:
            same = key in {option.name for option in options(PretrainConfig)}
            raise (
                UserError(f"{where}: '{key}' is the same for all arms; move it to 'pretrain'.")
                if same
                else unknown_key(key, own | _OF_AN_ARM, where)
            )
    check_finetune(arm.finetune, where)
    for key in arm.finetune:
        if key in _FINETUNE_SHARED:
            raise UserError(f"{where}: '{key}' is the same for all arms; move it to 'finetune'.")


def check_pretrain(values: Mapping[str, Any], arms: Sequence[Arm], where: str) -> None:
    """Refuse what the comparison says elsewhere, and what belongs to no objective that takes part."""
    general = {option.name for option in options(PretrainConfig)}
    own = set().union(*(objective_options(arm.objective) for arm in arms))
    for key in values:
        if key in _OF_THE_COMPARISON:
            raise UserError(f"{where}: '{key}' does not belong here; say it as {_OF_THE_COMPARISON[key]}.")
        if key not in general | own:
            owners = [name for name in available() if key in objective_options(name)]
            if owners:
                raise UserError(
                    f"{where}: '{key}' belongs to {', '.join(owners)}, and none of them is compared; leave it out."
                )
            raise unknown_key(key, (general | own) - set(_OF_THE_COMPARISON), where)


def check_finetune(values: Mapping[str, Any], where: str) -> None:
    known = {option.name for option in options(FinetuneConfig)} - set(_FINETUNE_FIXED)
    for key in values:
        if key in _FINETUNE_FIXED:
            raise UserError(f"{where}: '{key}' of fine-tuning is said as {_FINETUNE_FIXED[key]}.")
        if key not in known:
            raise unknown_key(key, known, where)
