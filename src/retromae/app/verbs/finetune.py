"""retromae finetune, and distill: the same with a teacher"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from retromae.app.flags import PrintConfig, SettingsFile, console, ended, split_settings, with_flags
from retromae.core.config import options, to_yaml
from retromae.core.errors import UserError
from retromae.training.finetune_settings import FinetuneConfig

Resume = Annotated[bool, typer.Option("--resume", help="go on where the run in output_dir was interrupted")]


@with_flags({"settings": options(FinetuneConfig)})
def command(
    flags: dict[str, Any],
    model: Annotated[
        str | None, typer.Argument(help="model to start from: a run, a model's folder or a hub name")
    ] = None,
    settings: SettingsFile = None,
    resume: Resume = False,
    print_config: PrintConfig = False,
) -> None:
    """Fine-tune a retriever on queries and passages: DPR, mined or refreshed negatives, DupMAE's two halves."""
    run(_config(flags, model, settings), resume, print_config)


def _config(flags: dict[str, Any], model: str | None, settings: str | None) -> FinetuneConfig:
    given = {**flags, **({"model_name_or_path": model} if model else {})}
    config: FinetuneConfig = split_settings(given, settings, FinetuneConfig)[0]
    return config


def run(config: FinetuneConfig, resume: bool, print_config: bool = False) -> None:
    """What both verbs do with their settings."""
    if print_config:
        return console.print(to_yaml(vars(config)), highlight=False, markup=False)
    for name in ("model_name_or_path", "pairs", "output_dir"):
        if not getattr(config, name):
            raise UserError(f"Please say {name}: give --{name} or write it into the settings file.")
    from retromae.app.dev import finetune_on_dev

    ended(finetune_on_dev(config, resume=resume, console=console))
