"""retromae pipeline"""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from retromae.app.flags import console, find_recipe
from retromae.app.forecasts import EncodedPerSecond, Speeds, TokensPerSecond
from retromae.app.pipeline import REFERENCE, Pipeline
from retromae.core import distributed
from retromae.core.config import read_yaml, unknown_key
from retromae.core.distributed import writes
from retromae.core.errors import UserError
from retromae.core.locks import only_writer


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
        bool, typer.Option("--plan", help="show the stages, what is finished and what they need, and stop")
    ] = False,
    tokens_per_second: TokensPerSecond = None,
    encoded_per_second: EncodedPerSecond = None,
) -> None:
    """Run several verbs in a row, from one file. The same command again goes on where it was interrupted."""
    values = read_yaml(find_recipe(recipe))
    known = {"output_dir", *values, *REFERENCE.findall(str(values))} - {"stages"}
    for item in set or []:
        name, equals, value = item.partition("=")
        name = name.replace("-", "_")
        if not equals:
            raise UserError(f"--set takes name=value, not '{item}'.")
        if name not in known:
            raise unknown_key(name, known, f"--set, {recipe}")
        values[name] = _read(value)
    pipeline = Pipeline(values, recipe)
    if plan:
        from retromae.app.pipeline_plan import expected_of, plan_lines

        speeds = Speeds.read(tokens_per_second, encoded_per_second)
        for line in plan_lines(pipeline, expected_of(values, recipe), speeds):
            _say(line)
        return
    distributed.start()
    with only_writer(pipeline.folder):
        if restart:
            distributed.first_decides(lambda: pipeline.restart(restart))
        code = pipeline.run(_say)
    if code:
        raise typer.Exit(code)


def _read(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set: '{value}' is no value that YAML knows; put it in quotes.") from None


def _say(line: str) -> None:
    if writes():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
