"""retromae adapt"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from retromae.app.adapt.settings import AdaptConfig
from retromae.app.flags import PrintConfig, SettingsFile, console, errors, split_settings, with_flags
from retromae.core.config import options, to_yaml


@with_flags({"settings": [option for option in options(AdaptConfig) if option.name != "sources"]})
def command(
    flags: dict[str, Any],
    sources: Annotated[
        list[str] | None, typer.Argument(help="folders and files of text, BEIR folders or hub:NAME")
    ] = None,
    settings: SettingsFile = None,
    print_config: PrintConfig = False,
) -> None:
    """A folder of text in, a proven better retriever out: the same command again goes on, or does what changed."""
    given = {**flags, **({"sources": sources} if sources else {})}
    config: AdaptConfig = split_settings(given, settings, AdaptConfig)[0]
    if print_config:
        return console.print(to_yaml(vars(config)), highlight=False, markup=False)
    run_adapt(config)


def run_adapt(config: AdaptConfig) -> None:
    """Do it, and say what came out of it."""
    from retromae.app.adapt.adapt import adapt, verdict_of
    from retromae.training.session import Interrupted

    try:
        run = adapt(config, console)
    except Interrupted as stopped:
        errors.print("Stopped; the same command goes on.", highlight=False)
        raise typer.Exit(128 + stopped.signal) from None
    console.print(f"\n[bold]{verdict_of(run)}[/bold]", highlight=False, soft_wrap=True)
    console.print(
        f"\nThe report: {run / 'report.html'}\nThe model: {run / 'model'}\nSearch it: retromae serve {run}",
        highlight=False,
        soft_wrap=True,
    )
