"""retromae teach"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from retromae.app.flags import PrintConfig, SettingsFile, console, ended, split_settings, with_flags
from retromae.core.config import options, to_dict, to_yaml
from retromae.training.teacher_settings import TeacherConfig


@with_flags({"run": options(TeacherConfig)})
def command(
    flags: dict[str, Any],
    model: Annotated[
        str | None, typer.Argument(help="an encoder, or a cross-encoder to go on with: a folder or hub name")
    ] = None,
    settings: SettingsFile = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on where the run in output_dir was interrupted")
    ] = False,
    print_config: PrintConfig = False,
) -> None:
    """Train a cross-encoder on pairs and their negatives: a teacher to distil from, and a re-ranker."""
    given = {**flags, **({"model_name_or_path": model} if model else {})}
    (config,) = split_settings(given, settings, TeacherConfig)
    if print_config:
        return console.print(to_yaml(to_dict(config)), highlight=False, markup=False)
    from retromae.training.teacher import teach

    ended(teach(config, resume=resume, console=console))
