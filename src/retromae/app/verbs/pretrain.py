"""retromae pretrain"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from retromae.app.flags import PrintConfig, Recipe, console, ended, find_recipe, with_flags
from retromae.core.config import Option, options, read_yaml, to_yaml
from retromae.core.errors import UserError
from retromae.objectives import available, load
from retromae.training.settings import PretrainConfig, resolve, with_objective


def _panels() -> dict[str, list[Option]]:
    """The flags: those of every run, then those of the objectives that have them."""
    owners: dict[Option, list[str]] = {}
    for name in available():
        for option in options(load(name).Config):
            owners.setdefault(option, []).append(name)
    panels = {"run": options(PretrainConfig)}
    for option, names in owners.items():
        panels.setdefault(f"objective: {', '.join(names)}", []).append(option)
    return panels


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
