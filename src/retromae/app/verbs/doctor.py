"""retromae doctor"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from retromae.app.adapt.settings import AdaptConfig, check
from retromae.app.flags import console, with_flags
from retromae.core.config import from_dict, options
from retromae.core.files import write_json

# What the command at the end says too.
_ASKED = (
    *("model_name_or_path", "from_scratch", "minutes", "pairs", "output_dir"),
    *("text_field", "title_field"),
)
_OUTPUT = "runs/adapted"


@with_flags({"as for adapt": [option for option in options(AdaptConfig) if option.name in _ASKED]})
def command(
    sources: Annotated[list[str], typer.Argument(help="folders, files or hub data sets with the text")],
    flags: dict[str, Any],
    json: Annotated[str | None, typer.Option("--json", help="also write everything to this file")] = None,
) -> None:
    """Before anything long: what will happen with this text on this machine, and what to do."""
    config = from_dict(AdaptConfig, {"output_dir": _OUTPUT, **flags, "sources": sources}, "command line")
    check(config)
    from retromae.app.adapt.plan import choose
    from retromae.app.adapt.start import default_base
    from retromae.app.doctor.examine import examine
    from retromae.app.doctor.page import as_json, show

    model = None if config.from_scratch else config.model_name_or_path or default_base()
    examination = examine(
        sources,
        model,
        minutes=config.minutes,
        pairs=config.pairs,
        output_dir=config.output_dir,
        options=config.reading,
        settings=config,
        choose=partial(choose, config=config),
        progress=True,
    )
    show(examination, console)
    if json is not None:
        write_json(json, as_json(examination))
        console.print(f"\nWritten to {json}", highlight=False, markup=False, soft_wrap=True)
