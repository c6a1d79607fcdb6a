"""The road between two checkpoints: what each average of them reaches in its domain and out of it.

points/WEIGHT/SET/     what a point reached on a set, query by query; a folder that is there is whole
models/WEIGHT/         the averages that are kept
curve.json             what the points were made from: a folder with other points is refused
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from retromae.app.curve_settings import (
    ROLES,
    TUNED,
    CurveConfig,
    MeasuredSet,
    Role,
    label,
    parse_weights,
    planned_sets,
)
from retromae.app.encoders import EncoderSettings
from retromae.app.evaluate import EvaluateConfig, evaluate
from retromae.app.reports import warnings_of
from retromae.core.errors import UserError
from retromae.core.files import replacing_folder, write_json
from retromae.evaluation.macro import macro_compare, macro_mean
from retromae.evaluation.metrics import Metric, Result, metric_name
from retromae.evaluation.significance import Comparison
from retromae.models.averaging import average, read_recipe
from retromae.models.folders import ModelFolder, read_object

FACTS_FILE = "set.json"
KEY_FILE = "curve.json"
_OF_THE_MACHINE = ("batch_tokens", "device")  # settings that no figure depends on


@dataclass(frozen=True)
class Point:
    """One average: `weight` is the second model's share; results by role, then by set."""

    weight: float
    results: dict[Role, dict[str, list[Result]]]
    in_domain: Metric
    out_of_domain: Metric

    @property
    def balance(self) -> float:
        """What the best point is the best by: the mean of both axes."""
        return (self.in_domain.mean + self.out_of_domain.mean) / 2


@dataclass(frozen=True)
class Curve:
    """All points by rising weight, and each but the last tested against the last."""

    models: tuple[str, str]
    metric: str
    sets: list[MeasuredSet]
    facts: dict[str, dict[str, Any]]  # set → split, documents, queries, warnings
    points: list[Point]
    comparisons: dict[Role, list[Comparison]]

    @property
    def best(self) -> Point:
        """The highest mean of both axes; of equals, the nearest to the second model."""
        return max(self.points, key=lambda point: (point.balance, point.weight))


def measure_curve(
    models: tuple[str, str],
    config: CurveConfig,
    settings: EncoderSettings | None = None,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> Curve:
    """Make and measure every average; what an earlier call has finished in `output_dir` is not done again.

    All points, the two models themselves included, are measured in one way: the first model's (its prompts,
    lengths, similarity), or as `settings` say.
    """
    settings = settings or EncoderSettings()
    weights, metric, sets = parse_weights(config.weights), metric_name(config.metric), planned_sets(config)
    if config.output_dir is None:
        raise UserError("the curve needs a folder to be written to: name it with --output_dir.")
    folder = Path(config.output_dir)
    _claim(folder, _key(models, sets, metric, settings))
    # The second model comes first: all others are tested against it, and what it has read is looked up once.
    for weight in sorted(weights, key=lambda weight: (weight != TUNED, weight)):
        _measure_point(models, weight, sets, metric, settings, folder, say)
        if config.keep != "all":
            shutil.rmtree(_model(folder, weight), ignore_errors=True)
    points = [_read_point(folder, weight, sets, metric) for weight in weights]
    facts = {one.name: read_object(_place(folder, TUNED, one) / FACTS_FILE) for one in sets}
    curve = Curve(models, metric, sets, facts, points, _compared(points, metric))
    _settle_models(curve, config.keep, settings, folder)
    return curve


def _place(folder: Path, weight: float, one: MeasuredSet) -> Path:
    return folder / "points" / label(weight) / one.name


def _model(folder: Path, weight: float) -> Path:
    return folder / "models" / label(weight)


def _key(
    models: tuple[str, str], sets: Sequence[MeasuredSet], metric: str, settings: EncoderSettings
) -> dict[str, Any]:
    """All that the figures depend on, as plain JSON."""
    first, second = (ModelFolder.open(model).fingerprint for model in models)
    how = {name: value for name, value in asdict(settings).items() if name not in _OF_THE_MACHINE}
    places = {one.name: [one.role, one.split, one.stamp()] for one in sets}
    return {"first model": first, "second model": second, "metric": metric, "sets": places, "encoder": how}


def _claim(folder: Path, key: dict[str, Any]) -> None:
    """Take an empty folder for this curve, or go on with it; points of another curve are never mixed in."""
    before = read_object(folder / KEY_FILE)
    if not before and folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and holds no curve; choose another output_dir.")
    changed = next((name for name, value in key.items() if before and before.get(name) != value), None)
    if changed and (folder / "points").is_dir():
        raise UserError(
            f"{folder} holds a curve that was made from something else: its {changed} changed; choose another "
            "output_dir, or remove it."
        )
    if changed:  # nothing was measured yet
        for name in ("models", "vectors"):
            shutil.rmtree(folder / name, ignore_errors=True)
    write_json(folder / KEY_FILE, key)


def _measure_point(
    models: tuple[str, str],
    weight: float,
    sets: Sequence[MeasuredSet],
    metric: str,
    settings: EncoderSettings,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    left = [one for one in sets if not _place(folder, weight, one).is_dir()]
    if not left:
        return
    model = _make(models, weight, settings, folder)
    vectors = folder / "vectors" / label(weight)
    for one in left:
        config = EvaluateConfig(
            beir=[one.folder],
            split=one.split,
            metrics=[metric],
            leakage=weight == TUNED,
            vectors=str(vectors),
        )
        report = evaluate(f"weight {label(weight)}={model}", config, settings)
        results = [outcome.results[0] for outcome in report.sets]
        if any(metric not in result.metrics for result in results):
            raise UserError(
                f"{one.folder} has no judgements, only answer strings; the curve needs judgements."
            )
        facts = {
            "split": one.split,
            "documents": sum(outcome.documents for outcome in report.sets),
            "queries": sum(len(result.queries) for result in results),
            "warnings": warnings_of(report),
        }
        with replacing_folder(_place(folder, weight, one)) as temporary:
            for number, result in enumerate(results):
                result.save(temporary / f"{number}.json")
            write_json(temporary / FACTS_FILE, facts)
        say(
            f"weight {label(weight)}, {one.name}: {metric} {macro_mean({one.name: results}, metric).mean:.3f}"
        )
    shutil.rmtree(vectors, ignore_errors=True)


def _make(models: tuple[str, str], weight: float, settings: EncoderSettings, folder: Path) -> Path:
    """The average on disk, made anew where it is not there whole."""
    model = _model(folder, weight)
    if read_recipe(model) is None:
        average(models, model, (1 - weight, weight), pooling=settings.pooling)
    return model


def _read_point(folder: Path, weight: float, sets: Sequence[MeasuredSet], metric: str) -> Point:
    results: dict[Role, dict[str, list[Result]]] = {role: {} for role in ROLES}
    for one in sets:
        parts = _parts(_place(folder, weight, one))
        results[one.role][one.name] = [replace(part, name=f"weight {label(weight)}") for part in parts]
    inside, outside = (macro_mean(results[role], metric) for role in ROLES)
    return Point(weight, results, inside, outside)


def _parts(folder: Path) -> Iterator[Result]:
    """The results of one set in order; CQADupStack has twelve, any other set one."""
    number = 0
    while (file := folder / f"{number}.json").is_file():
        yield Result.load(file)
        number += 1


def _compared(points: Sequence[Point], metric: str) -> dict[Role, list[Comparison]]:
    return {
        role: macro_compare(
            {label(point.weight): point.results[role] for point in points}, metric, baseline=label(TUNED)
        )
        for role in ROLES
    }


def _settle_models(curve: Curve, keep: str, settings: EncoderSettings, folder: Path) -> None:
    """Leave the models that are wanted, and no others."""
    wanted = {"best": [curve.best], "all": curve.points, "none": []}[keep]
    for point in curve.points:
        if point in wanted:
            _make(curve.models, point.weight, settings, folder)
        else:
            shutil.rmtree(_model(folder, point.weight), ignore_errors=True)
    for name in ("models", "vectors"):
        if (folder / name).is_dir() and not any((folder / name).iterdir()):
            (folder / name).rmdir()
