"""retromae average"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from retromae.app import curves
from retromae.app.average import measure_curve
from retromae.app.curve_settings import CurveConfig
from retromae.app.encoders import EncoderSettings
from retromae.app.flags import PrintConfig, SettingsFile, console, split_settings, with_flags
from retromae.core.config import options, to_dict, to_yaml
from retromae.core.errors import UserError
from retromae.models.averaging import average


@with_flags({"curve": options(CurveConfig), "encoder": options(EncoderSettings)})
def command(
    models: Annotated[list[str], typer.Argument(help="folders of models with one ancestor, two or more")],
    flags: dict[str, Any],
    out: Annotated[str | None, typer.Option("--out", help="folder of one average")] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(
            "--weight",
            help="share of the second of two models, or one for each model (default: equal shares)",
        ),
    ] = None,
    settings: SettingsFile = None,
    print_config: PrintConfig = False,
) -> None:
    """Average the weights of models: one average, or the curve between two, in its domain and out of it."""
    config, encoder = split_settings(flags, settings, CurveConfig, EncoderSettings)
    everything = {"models": models, **to_dict(config), **to_dict(encoder)}
    if print_config:
        return _print(to_yaml(everything))
    if out is None:
        return _curve(models, weight, config, encoder, everything)
    misplaced = sorted(flags.keys() - {"pooling"})
    if misplaced or settings:
        named = f"--{misplaced[0]}" if misplaced else "--settings"
        raise UserError(
            f"{named} belongs to the curve, which is written to --output_dir; --out is one average."
        )
    recipe = average(models, out, _shares(models, weight or []), pooling=encoder.pooling)
    parts = " + ".join(f"{source.weight:g} × {source.folder}" for source in recipe.sources)
    _print(f"{parts}: {out}")


def _shares(models: list[str], weight: list[float]) -> list[float]:
    if not weight:
        return [1 / len(models)] * len(models)
    if len(weight) == 1 and len(models) == 2:
        return [1 - weight[0], weight[0]]
    return weight


def _curve(
    models: list[str],
    weight: list[float] | None,
    config: CurveConfig,
    encoder: EncoderSettings,
    everything: dict[str, Any],
) -> None:
    if weight:
        raise UserError("--weight is for one average, written to --out; the curve takes --weights 0,0.5,1.")
    if not (config.output_dir and (config.in_domain or config.out_of_domain)):
        raise UserError(
            "say what to make: one average with --out FOLDER, or the curve with --in_domain SET --out_of_domain SET "
            "--output_dir FOLDER."
        )
    if len(models) != 2:
        raise UserError(f"the curve runs between two models, but {len(models)} are named.")
    curve = measure_curve((models[0], models[1]), config, encoder, say=_print)
    _print("\n" + curves.rendered(curve))
    for line in curves.remarks(curve):
        _print(line)
    for sentence in curves.warnings_of(curve):
        warnings.warn(sentence, stacklevel=1)
    folder = Path(config.output_dir)
    curves.write(curve, folder, everything)
    _print(f"Written to {folder}: results.json, table.txt, table.md, curve.png, curve.svg")
    if config.keep == "best":
        _print(f"The best average is kept: {folder / 'models' / f'{curve.best.weight:g}'}")


def _print(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
