"""retromae evaluate"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from retromae.app import reports
from retromae.app.encoders import CorpusEncoderSettings
from retromae.app.evaluate import EvaluateConfig, evaluate
from retromae.app.flags import PrintConfig, SettingsFile, console, split_settings, with_flags
from retromae.core.config import options, to_dict, to_yaml


@with_flags({"evaluation": options(EvaluateConfig), "encoder (of MODEL)": options(CorpusEncoderSettings)})
def command(
    model: Annotated[str, typer.Argument(help="model, bm25 or a TREC run; NAME=… names it in the tables")],
    flags: dict[str, Any],
    settings: SettingsFile = None,
    print_config: PrintConfig = False,
) -> None:
    """Measure a retriever: figures with intervals, paired tests against others, per-query values kept."""
    config, encoder = split_settings(flags, settings, EvaluateConfig, CorpusEncoderSettings)
    everything = {"model": model, **to_dict(config), **to_dict(encoder)}
    if print_config:
        return console.print(to_yaml(everything), highlight=False, markup=False)
    report = evaluate(model, config, encoder)
    _print(reports.rendered(report, config.form))
    if config.form == "text":
        for line in reports.remarks(report):
            _print(line)
    for sentence in reports.warnings_of(report):
        warnings.warn(sentence, stacklevel=1)
    if config.output_dir:
        reports.write(report, Path(config.output_dir), everything)


def _print(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
