"""retromae distill"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from retromae.app.flags import PrintConfig, SettingsFile, with_flags
from retromae.app.verbs.finetune import Resume, _config, run
from retromae.core.config import options
from retromae.core.errors import UserError
from retromae.training.finetune_settings import FinetuneConfig


@with_flags({"settings": options(FinetuneConfig)})
def command(
    flags: dict[str, Any],
    model: Annotated[
        str | None, typer.Argument(help="student: a run, a model's folder or a hub name")
    ] = None,
    settings: SettingsFile = None,
    resume: Resume = False,
    print_config: PrintConfig = False,
) -> None:
    """Distil a cross-encoder into a retriever. Its scores are kept beside it, and made only once."""
    config = _config(flags, model, settings)
    if not config.teacher and not print_config:
        raise UserError("Please say whom to distil: give --teacher, a run of `retromae teach`.")
    run(config, resume, print_config)
