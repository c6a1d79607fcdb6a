"""retromae compare"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retromae.app.flags import console, find_recipe
from retromae.app.forecasts import EncodedPerSecond, Speeds, TokensPerSecond
from retromae.core.config import read_recipe
from retromae.core.distributed import writes
from retromae.core.errors import UserError

if TYPE_CHECKING:
    from retromae.app.compare.settings import Comparison


def command(
    recipe: Annotated[str, typer.Argument(help="YAML with a comparison, or the name of a recipe")],
    objectives: Annotated[
        str | None, typer.Option(help="arms, with commas between: names of the recipe, or objectives")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="how many seeds, from 1 on")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="what each arm may spend on pre-training: 20M-tokens, 3e15-flops, 30-minutes, 500-steps, 8-epochs"
        ),
    ] = None,
    output_dir: Annotated[str | None, typer.Option("--output_dir", help="folder for everything")] = None,
    reference: Annotated[
        str | None, typer.Option(help="arm that the others are tested against (default: the best)")
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="name=value, or section.name=value, over the file's")
    ] = None,
    report: Annotated[
        list[str] | None,
        typer.Option(
            "--report",
            help="write the report there, too: .md (a picture beside it), .tex, .txt, .json, .svg, .png",
        ),
    ] = None,
    report_only: Annotated[
        bool,
        typer.Option("--report_only", help="train and measure nothing; write the report of what is finished"),
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="work on this arm alone; the report has all")
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", help="of several machines, this one's share: 1/2")
    ] = None,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="throw away what was made with other settings, and make it again"),
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="show what is there, what is to do and what it needs, and stop")
    ] = False,
    tokens_per_second: TokensPerSecond = None,
    encoded_per_second: EncodedPerSecond = None,
) -> None:
    """Compare pre-training objectives under one budget. The same command again goes on; several share the work."""
    from retromae.app.compare.compare import Share, compare
    from retromae.app.compare.jobs import jobs_of, part_of
    from retromae.app.compare.plan import plan_lines

    speeds = {"--tokens_per_second": tokens_per_second, "--encoded_per_second": encoded_per_second}
    _refuse(not plan, speeds, "is of --plan; give that too, or leave it out")
    work = {"--report": report, "--report_only": report_only, "--restart": restart}
    _refuse(plan, work, "means nothing beside --plan, which does and writes nothing; leave one of them out")
    given = {"seeds": seeds, "budget": budget, "output_dir": output_dir, "reference": reference}
    comparison = _read(recipe, objectives, set or [], given)
    if plan:
        jobs = part_of(jobs_of(comparison), part, only or [])
        for line in plan_lines(comparison, jobs, Speeds.read(tokens_per_second, encoded_per_second)):
            _say(line)
        return
    share = Share(part, only or [], restart, report_only)
    signal = compare(comparison, share, _say, console, report or [])
    if signal:
        raise typer.Exit(128 + signal)


def _read(
    recipe: str, objectives: str | None, changes: Sequence[str], given: Mapping[str, Any]
) -> Comparison:
    """The recipe's, with --objectives, --set and the other flags over it."""
    from retromae.app.compare.reading import put, read_comparison

    values = read_recipe(find_recipe(recipe))
    chosen = [name.strip() for name in objectives.split(",") if name.strip()] if objectives else None
    if chosen and values.get("reference") not in chosen:
        values.pop("reference", None)  # the recipe's takes no part
    for item in changes:
        put(values, item, recipe)
    values |= {name: value for name, value in given.items() if value is not None}
    return read_comparison(values, recipe, objectives=chosen)


def _refuse(when: bool, flags: Mapping[str, Any], why: str) -> None:
    for flag in (flag for flag, given in flags.items() if when and given):
        raise UserError(f"{flag} {why}.")


def _say(line: Any) -> None:
    if writes():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
