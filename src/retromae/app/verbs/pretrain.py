"""retromae pretrain"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from retromae.app.flags import PrintConfig, Recipe, console, ended, find_recipe, with_flags
from retromae.core.config import Option, options, read_yaml, to_yaml
from retromae.core.errors import UserError
from retromae.objectives import available, load
from retromae.training.settings import PretrainConfig, resolve, with_objective


def _panels() -> dict[str, list[Option]]:
    """The flags: those of every run, then those of the objectives that have them."""
    owners: dict[str, list[tuple[str, Option]]] = {}
    for name in available():
        for option in options(load(name).Config):
            owners.setdefault(option.name, []).append((name, option))
    panels = {"run": options(PretrainConfig)}
    for owned in owners.values():
        panels.setdefault(f"objective: {', '.join(name for name, _ in owned)}", []).append(_merged(owned))
    return panels


def _merged(owned: Sequence[tuple[str, Option]]) -> Option:
    """One flag for a setting that several objectives have, perhaps each with its own meaning and default."""
    meanings: dict[tuple[str, Any], list[str]] = {}
    for name, option in owned:
        meanings.setdefault((option.help, option.default), []).append(name)
    first = owned[0][1]
    if len(meanings) == 1:
        return first
    told = [f"{', '.join(names)}: {text} (default: {default})" for (text, default), names in meanings.items()]
    return replace(first, help="; ".join(told), default=None)


@with_flags(_panels())
def command(
    flags: dict[str, Any],
    recipe: Recipe = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on where the run in output_dir was interrupted")
    ] = False,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=value: a setting of an objective that lives outside the package"),
    ] = None,
    print_config: PrintConfig = False,
) -> None:
    """Pre-train an encoder for retrieval on token rows, from a model or from scratch."""
    values = read_yaml(find_recipe(recipe)) if recipe else {}
    if "objective" in flags:
        values = with_objective(values, flags["objective"])
    for item in set or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--set takes name=value, not '{item}'.")
        values[name.replace("-", "_")] = value
    settings = resolve({**values, **flags}, recipe or "command line")
    if print_config:
        return console.print(to_yaml(settings.flat()), highlight=False, markup=False)
    from retromae.training.pretrain import pretrain

    ended(pretrain(settings, resume=resume, console=console))
