"""Reads a comparison's YAML, strictly: what can be refused is refused here, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from retromae.app.compare.arms import SHAPE, Arm, check_finetune, check_pretrain, chosen, read_arms
from retromae.app.compare.budget import Budget
from retromae.app.compare.settings import Common, Comparison, EvalSet, fetched
from retromae.app.encoders import EncoderSettings
from retromae.app.pipeline import REFERENCE
from retromae.app.pipeline import resolve as resolve_text
from retromae.core.config import from_dict, unknown_key
from retromae.core.errors import UserError
from retromae.text.hub import HUB
from retromae.text.prepare import PrepareConfig
from retromae.training.negatives import MineConfig
from retromae.training.published_negatives import is_published
from retromae.training.settings import resolve as resolve_settings

_KEYS = (
    *("output_dir", "data", "rows", "prepare", "start", "common", "pretrain", "finetune", "negatives"),
    *("encoder", "tests"),
    *("objectives", "seeds", "budget", "reference", "published", "expected"),
)
_COMMON_OWN = ("rows", "prepare", "budget")
_EXPECTED = {"rows": ("tokens",), "common": ("tokens",), "pairs": ("queries", "passages"), "tests": ()}
_EXPECTED_NUMBERS = ("parameters", "dimension", "devices")


def read_comparison(
    values: Mapping[str, Any], where: str, *, objectives: Iterable[str] | None = None
) -> Comparison:
    """Check everything that can be checked before anything is opened. `objectives` are the arms that take part."""
    given = _with_references(values, where)
    for key in given:
        if key not in _KEYS and key not in REFERENCE.findall(str(dict(values))):
            raise unknown_key(key, _KEYS, where)
    folder = Path(str(_needed(given, "output_dir", "the folder that everything is written to", where)))
    arms = read_arms(_needed(given, "objectives", "a list of what is compared", where), where)
    if objectives is not None:
        arms = chosen(arms, list(objectives), where)
    finetune = _section(given, "finetune", where) if given.get("finetune") is not None else None
    tests = given.get("tests")
    if not isinstance(tests, list) or not tests or not all(isinstance(entry, dict) for entry in tests):
        raise UserError(
            f"{where}: 'tests' must be a list of sets, each with beir and what else is said of it."
        )
    found = [from_dict(EvalSet, entry, f"{where}, tests").complete(finetune is not None) for entry in tests]
    rows, prepare = _rows(given, where)
    comparison = Comparison(
        where=where,
        folder=folder,
        data=_data(given, where),
        rows=rows,
        prepare=prepare,
        start=_start(given, where),
        common=_common(given, where),
        pretrain=_section(given, "pretrain", where),
        finetune=finetune,
        **_negatives(given, finetune, where),
        encoder=from_dict(EncoderSettings, _section(given, "encoder", where), f"{where}, encoder"),
        tests=found,
        arms=arms,
        seeds=_seeds(given.get("seeds", 1), where),
        budget=Budget.parse(
            str(_needed(given, "budget", "what each arm may spend, such as 20M-tokens", where))
        ),
        reference=given.get("reference"),
        published=_published(given, where),
        expected=_expected(given, f"{where}, expected"),
    )
    _check(comparison, read_arms(given["objectives"], where))
    return comparison


def _check(comparison: Comparison, known: list[Arm]) -> None:
    where, names = comparison.where, [arm.name for arm in comparison.arms]
    if comparison.reference is not None and comparison.reference not in names:
        raise UserError(
            f"{where}: the reference '{comparison.reference}' is not among the arms {', '.join(names)}."
        )
    check_pretrain(comparison.pretrain, [*comparison.arms, *known], f"{where}, pretrain")
    if comparison.finetune is not None:
        check_finetune(comparison.finetune, f"{where}, finetune")
        if not comparison.finetune.get("pairs"):
            raise UserError(f"{where}, finetune: say pairs, what is fine-tuned on.")
    titles = [test.name for test in comparison.tests]
    for title in titles:
        if titles.count(title) > 1:
            raise UserError(f"{where}: two tests are called '{title}'; give each a name of its own.")
    for arm in comparison.arms:
        if arm.pretrains:
            comparison.pretraining(arm)
        if arm.finetune and comparison.finetune is None:
            raise UserError(f"{where}, arm {arm.name}: nothing is fine-tuned here; leave its finetune out.")
        if arm.trains and comparison.finetune is not None:
            comparison.finetuning(arm)


def put(values: dict[str, Any], assignment: str, where: str) -> None:
    """`name=value` or `section.name=value`, the value as YAML reads it."""
    name, equals, text = assignment.partition("=")
    if not equals or not name:
        raise UserError(f"--set takes name=value or section.name=value, not '{assignment}'.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set: '{text}' is no value that YAML knows; put it in quotes.") from None
    *sections, last = name.replace("-", "_").split(".")
    inner = values
    for section in sections:
        if inner.get(section) is None:
            inner[section] = {}
        inner = inner[section]
        if not isinstance(inner, dict):
            raise UserError(f"--set, {where}: '{section}' holds no settings of its own.")
    if (
        not sections
        and last not in values
        and last not in _KEYS
        and last not in REFERENCE.findall(str(values))
    ):
        raise unknown_key(last, {*values, *_KEYS}, f"--set, {where}")
    inner[last] = value


# -- parts ------------------------------------------------------------------------------------------------------


def _with_references(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`${name}` replaced: by a value at the top of the file, or by the folder of a data set that is fetched."""
    plain = {str(name): value for name, value in values.items()}
    data = plain.get("data") or {}

    def value_of(name: str) -> Any:
        if isinstance(data, Mapping) and name in {str(key).replace("-", "_") for key in data}:
            found = next(str(key) for key in data if str(key).replace("-", "_") == name)
            return str(fetched(Path(str(plain.get("output_dir") or "")), found))
        if name in plain and not isinstance(plain[name], dict | list):
            return replaced(plain[name]) if not REFERENCE.search(str(plain[name])) else plain[name]
        raise unknown_key(name, {*plain, *map(str, data)}, where)

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key).replace("-", "_"): replaced(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [replaced(inner) for inner in value]
        return resolve_text(value, value_of)

    return {
        key: value if key in ("data", "published", "expected") else replaced(value)
        for key, value in plain.items()
    }


def _needed(values: Mapping[str, Any], key: str, what: str, where: str) -> Any:
    if values.get(key) in (None, "", []):
        raise UserError(f"{where}: say {key}, {what}.")
    return values[key]


def _section(values: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    section = values.get(key) or {}
    if not isinstance(section, dict):
        raise UserError(f"{where}: '{key}' must hold settings as 'name: value' lines.")
    return dict(section)


def _data(values: Mapping[str, Any], where: str) -> dict[str, str]:
    data = {str(name): str(source) for name, source in _section(values, "data", where).items()}
    for name, source in data.items():
        if not source.startswith(HUB) or not re.fullmatch(r"\w[\w/-]*", name):
            raise UserError(f"{where}, data: '{name}: {source}' must be a name and hub:NAME.")
    return data


def _rows(values: Mapping[str, Any], where: str) -> tuple[str | None, PrepareConfig | None]:
    """Rows that are there, or how they are made."""
    given, section = values.get("rows"), _section(values, "prepare", where)
    if bool(given) == bool(section):
        raise UserError(
            f"{where}: give rows, or prepare with the settings of `retromae prepare`: one of the two."
        )
    if not section:
        return str(given), None
    known = {entry.name for entry in fields(PrepareConfig)}
    if "out" in section or not section.get("sources"):
        raise UserError(f"{where}, prepare: say sources, and leave out to the comparison.")
    for key in section:
        if key not in known:
            raise unknown_key(key, known - {"out"}, f"{where}, prepare")
    return None, from_dict(PrepareConfig, section, f"{where}, prepare")


def _start(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    start = _section(values, "start", where)
    for key in start:
        if key not in ("model_name_or_path", *SHAPE):
            raise unknown_key(key, ("model_name_or_path", *SHAPE), f"{where}, start")
    if "model_name_or_path" in start and len(start) > 1:
        raise UserError(f"{where}, start: give model_name_or_path or the shape of a model, one of the two.")
    return start


def _common(values: Mapping[str, Any], where: str) -> Common | None:
    section = _section(values, "common", where)
    if not section:
        return None
    inside = f"{where}, common"
    budget = Budget.parse(str(_needed(section, "budget", "how long it lasts, such as 20M-tokens", inside)))
    rows, prepare = (None, None)
    if section.get("rows") or section.get("prepare"):
        rows, prepare = _rows(section, inside)
    settings = {key: value for key, value in section.items() if key not in _COMMON_OWN}
    for key in settings:
        if key in (*SHAPE, "model_name_or_path", "output_dir", "max_steps", "minutes", "num_train_epochs"):
            raise UserError(f"{inside}: '{key}' does not belong here; there are start and budget.")
    resolve_settings(settings, inside)
    return Common(settings, budget, rows, prepare)


def _negatives(values: Mapping[str, Any], finetune: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """The rules, and the file that the negatives come from if they are not mined."""
    section = _section(values, "negatives", where)
    if not section:
        return {"negatives": None, "published_negatives": None}
    if finetune is None or finetune.get("negatives"):
        raise UserError(
            f"{where}: 'negatives' are mined for fine-tuning; leave them out, or the file in finetune."
        )
    file = section.pop("file", None)
    rules = from_dict(MineConfig, section, f"{where}, negatives")
    if file is not None and not is_published(str(file)):
        raise UserError(
            f"{where}, negatives: file must be a .jsonl or .jsonl.gz of published ones, not {file}."
        )
    if file is None and rules.per_system is not None:
        raise UserError(
            f"{where}, negatives: per_system is of published ones; name their file, or give depth."
        )
    return {"negatives": rules, "published_negatives": None if file is None else str(file)}


def _expected(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Sizes for --plan, by names that it asks for. Tests that are not there may have sizes all the same."""
    expected = _section(values, "expected", where)
    for name in map(str, expected):
        if name not in (*_EXPECTED, *_EXPECTED_NUMBERS):
            raise unknown_key(name, (*_EXPECTED, *_EXPECTED_NUMBERS), where)
    for name, own in _EXPECTED.items():
        section = _section(expected, name, where)
        for key in map(str, section):
            if name != "tests" and key not in own:
                raise unknown_key(key, own, f"{where}, {name}")
            for size in _section(section, key, where) if name == "tests" else ():
                if size != "passages":
                    raise unknown_key(str(size), ("passages",), f"{where}, tests, {key}")
    return expected


def _seeds(given: Any, where: str) -> list[int]:
    """`3` are the seeds 1, 2, 3; a list stands for itself."""
    seeds = list(range(1, given + 1)) if isinstance(given, int) and not isinstance(given, bool) else given
    whole = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"{where}: seeds is how many there are, or a list of different ones, not {given!r}.")
    return seeds


def _published(values: Mapping[str, Any], where: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for arm, figures in _section(values, "published", where).items():
        try:
            found[str(arm)] = {str(column): float(figure) for column, figure in figures.items()}
        except (AttributeError, TypeError, ValueError):
            raise UserError(f"{where}, published: '{arm}' needs figures as 'column: number' lines.") from None
    return found
