"""`retromae pipeline --plan`: the stages, the data they read, and what they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from retromae.app import forecasts
from retromae.app.flags import find_recipe
from retromae.app.forecasts import Need, Speeds, first_known, product, stated
from retromae.app.pipeline import Pipeline, Stage
from retromae.core.config import from_dict, read_yaml, unknown_key
from retromae.core.errors import UserError
from retromae.training.finetune_settings import FinetuneConfig, check
from retromae.training.settings import PretrainConfig
from retromae.training.teacher_settings import TeacherConfig

_READ = (
    "source",
    "sources",
    "corpus",
    "rows",
    "pairs",
    "beir",
    "sts",
    "transfer",
    "mteb",
)  # what verbs call their data
_NUMBERS = ("parameters", "dimension", "passage_tokens", "devices")
_SIZES = ("tokens", "passages", "queries")
_EVALUATED_LENGTH = 512  # tokens of a passage, at most, of a model that states no length of its own


def plan_lines(pipeline: Pipeline, expected: Mapping[str, Any], speeds: Speeds) -> Iterator[str]:
    """`expected`: sizes that a recipe states, by stage, for data that are not here yet."""
    sizes = Sizes(pipeline, expected)
    total = Need()
    for stage, state in pipeline.states():
        yield f"{stage.name:<16} {stage.verb:<10} {state:<12} {stage.folder}"
        for name in _READ:
            for source in _listed(stage.settings.get(name)):
                place = f"{source} (a task of mteb)" if name == "mteb" else sizes.described(source)
                yield f"{'':<16} {name}: {place}"
        if state != "finished":
            need = _NEEDS.get(stage.verb, _nothing)(stage, sizes)
            total += need
            yield f"{'':<16} {forecasts.in_words(need, speeds)}; disk {forecasts.disk(need)}"
    yield f"{'in all':<16} {total.hours(speeds)}; disk {forecasts.disk(total)}"


@dataclass(frozen=True)
class Sizes:
    """How large things are, whether they are here or a stage will make them."""

    pipeline: Pipeline
    expected: Mapping[str, Any]

    def described(self, source: str) -> str:
        made = self._stage(source)
        if made is not None:
            return f"of {made.name}"
        if source.startswith("hub:"):
            return f"{source} (on the hub)"
        return source if Path(source).exists() else f"{source} (not here: made first, or a name)"

    def tokens(self, rows: str) -> float | None:
        return first_known(lambda: self._stated(rows, "tokens"), lambda: forecasts.tokens_of(rows))

    def passages(self, folder: str) -> float | None:
        return first_known(lambda: self._stated(folder, "passages"), lambda: forecasts.passages_of(folder))

    def queries(self, folder: str, split: str) -> float | None:
        return first_known(
            lambda: self._stated(folder, "queries"), lambda: forecasts.queries_of(folder, split)
        )

    def parameters(self, model: str) -> float | None:
        return first_known(
            lambda: stated(self.expected, "parameters"), lambda: forecasts.parameters_of(model)
        )

    def dimension(self) -> float | None:
        return stated(self.expected, "dimension")

    def _stage(self, source: str) -> Stage | None:
        return next((stage for stage in self.pipeline.stages if str(stage.folder) == source), None)

    def _stated(self, source: str, what: str) -> float | None:
        """By the name of the stage that makes it, otherwise by the name of its folder."""
        made = self._stage(source)
        return stated(self.expected, made.name if made else Path(source).name, what)


def _listed(value: Any) -> list[str]:
    return [] if value is None else [str(item) for item in (value if isinstance(value, list) else [value])]


# -- what each verb takes ---------------------------------------------------------------------------------------


def _nothing(stage: Stage, sizes: Sizes) -> Need:
    return Need()


def _settings(stage: Stage, default: Any, file: str | None = None) -> dict[str, Any]:
    values = read_yaml(find_recipe(file)) if file else {}
    return {**vars(default), **values, **stage.settings}


def _prepared(stage: Stage, sizes: Sizes) -> Need:
    return Need(disk=forecasts.rows_disk(sizes.tokens(str(stage.folder))))


def _pretrained(stage: Stage, sizes: Sizes) -> Need:
    values = _settings(stage, PretrainConfig(), stage.settings.get("recipe"))
    passes, steps = values["num_train_epochs"], values["max_steps"]
    if passes is None and steps is None:
        passes = 8
    tokens = product(sizes.tokens(str(values["rows"])), passes)
    if steps is not None:
        batch = values["tokens_per_batch"] or values["per_device_train_batch_size"] * values["max_seq_length"]
        tokens = steps * batch * values["gradient_accumulation_steps"] * forecasts.devices(sizes.expected)
    parameters = sizes.parameters(str(values["model_name_or_path"]))
    return Need(trained=tokens, disk=forecasts.training_disk(parameters))


def _finetuned(stage: Stage, sizes: Sizes) -> Need:
    values = _settings(stage, FinetuneConfig(), stage.settings.get("settings"))
    known = {field.name for field in fields(FinetuneConfig)}
    given = {name: value for name, value in values.items() if name in known and value is not None}
    config = from_dict(FinetuneConfig, given, f"stage {stage.name}")
    check(config)
    pairs = str(values["pairs"])
    need = forecasts.finetuning(
        config,
        sizes.queries(pairs, str(values["split"])),
        lambda: sizes.passages(pairs),
        forecasts.devices(sizes.expected),
    )
    parameters = sizes.parameters(str(values.get("model") or values["model_name_or_path"]))
    return need + Need(disk=forecasts.training_disk(parameters))


def _taught(stage: Stage, sizes: Sizes) -> Need:
    """A cross-encoder reads query and passage together."""
    values = _settings(stage, TeacherConfig(), stage.settings.get("settings"))
    queries = sizes.queries(str(values["pairs"]), str(values["split"]))
    passes, length = values["num_train_epochs"] or 1, values["max_seq_length"] or 192
    tokens = product(queries, passes, values["train_group_size"], length)
    parameters = sizes.parameters(str(values.get("model") or values["model_name_or_path"]))
    return Need(trained=tokens, disk=forecasts.training_disk(parameters))


def _mined(stage: Stage, sizes: Sizes) -> Need:
    return _encoding([str(stage.settings.get("pairs"))], 1, sizes)


def _evaluated(stage: Stage, sizes: Sizes) -> Need:
    models = [str(stage.settings.get("model")), *_listed(stage.settings.get("against"))]
    encoders = sum(model.rpartition("=")[2] not in ("bm25", "fusion") for model in models)
    return _encoding(_listed(stage.settings.get("beir")), encoders, sizes)


def _encoded(stage: Stage, sizes: Sizes) -> Need:
    return _encoding(_listed(stage.settings.get("corpus")), 1, sizes)


def _encoding(sets: list[str], encoders: int, sizes: Sizes) -> Need:
    found = [sizes.passages(folder) for folder in sets]
    passages = None if None in found else sum(number for number in found if number is not None)
    length = stated(sizes.expected, "passage_tokens") or _EVALUATED_LENGTH
    return Need(
        encoded=product(passages, length, encoders),
        disk=product(forecasts.vectors_disk(passages, sizes.dimension()), encoders),
    )


_NEEDS: dict[str, Callable[[Stage, Sizes], Need]] = {
    "prepare": _prepared,
    "pretrain": _pretrained,
    "finetune": _finetuned,
    "distill": _finetuned,
    "teach": _taught,
    "mine": _mined,
    "encode": _encoded,
    "evaluate": _evaluated,
}


def expected_of(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Sizes by the name of a stage, or of a folder that a stage reads."""
    found = values.get("expected") or {}
    if not isinstance(found, dict):
        raise UserError(f"{where}: 'expected' must hold sizes as 'stage: {{passages: number}}' lines.")
    for name, sizes in found.items():
        if not isinstance(sizes, dict) and name not in _NUMBERS:
            raise unknown_key(str(name), _NUMBERS, f"{where}, expected")
        for size in sizes if isinstance(sizes, dict) else ():
            if size not in _SIZES:
                raise unknown_key(str(size), _SIZES, f"{where}, expected, {name}")
    return found
