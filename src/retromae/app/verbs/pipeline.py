"""retromae pipeline"""

from __future__ import annotations

from typing import Annotated

import typer
import yaml

from retromae.app.flags import console, find_recipe
from retromae.app.pipeline import Pipeline
from retromae.core import distributed
from retromae.core.config import read_yaml
from retromae.core.distributed import writes
from retromae.core.errors import UserError


def command(
    recipe: Annotated[str, typer.Argument(help="YAML with stages, or the name of a recipe")],
    set: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=value: a value at the top of the file, output_dir among them"),
    ] = None,
    restart: Annotated[
        str | None, typer.Option("--restart", help="make this stage and those after it again")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="show the stages and what is finished, and stop")
    ] = False,
) -> None:
    """Run several verbs in a row, from one file. The same command again goes on where it was interrupted."""
    values = read_yaml(find_recipe(recipe))
    for item in set or []:
        name, equals, value = item.partition("=")
        if not equals or name == "stages":
            raise UserError(f"--set takes name=value, not '{item}'.")
        values[name.replace("-", "_")] = yaml.safe_load(value)
    pipeline = Pipeline(values, recipe)
    if plan:
        for stage, state in pipeline.states():
            _say(f"{stage.name:<16} {stage.verb:<10} {state:<12} {stage.folder}")
        return
    distributed.start()
    if restart:
        distributed.first_decides(lambda: pipeline.restart(restart))
    code = pipeline.run(_say)
    if code:
        raise typer.Exit(code)


def _say(line: str) -> None:
    if writes():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
