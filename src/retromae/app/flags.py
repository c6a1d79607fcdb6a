"""Settings dataclasses as command-line flags, and errors as one sentence."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from retromae.core.config import Option, from_dict, options, read_yaml, unknown_key
from retromae.core.distributed import writes
from retromae.core.errors import UserError
from retromae.core.runs import Outcome

console = Console()
errors = Console(stderr=True)
Recipe = Annotated[str | None, typer.Argument(help="YAML with settings, or the name of a recipe")]
SettingsFile = Annotated[
    str | None, typer.Option("--settings", help="YAML file with settings; flags override it")
]
PrintConfig = Annotated[bool, typer.Option("--print_config", help="show the resolved settings and stop")]
_BUNDLED = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes")


def with_flags(panels: Mapping[str, Iterable[Option]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command one flag per option, on top of its own parameters.

    The command takes them in `flags: dict[str, Any]`, which holds what was given and nothing else: what was not
    given must not override a settings file.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "flags"]
        taken = {p.name for p in own}
        added = [
            _parameter(option, panel)
            for panel, options in panels.items()
            for option in options
            if option.name not in taken and not taken.add(option.name)  # type: ignore[func-returns-value]
        ]

        def call(**values: Any) -> Any:
            mine = {p.name: values[p.name] for p in own}
            given = {p.name: v for p in added if (v := values[p.name]) is not None and v != []}
            return command(**mine, flags=given)

        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *added]]
        call.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in keyword}
        call.__doc__ = command.__doc__
        call.__name__ = command.__name__
        return call

    return decorate


def _parameter(option: Option, panel: str) -> inspect.Parameter:
    name = f"--{option.name}/--no_{option.name}" if option.kind is bool else f"--{option.name}"
    text = option.help
    if option.choices:
        text += escape(f" [{'|'.join(option.choices)}]")  # it is no markup
    if option.default not in (None, "", []):
        text += f" (default: {option.default})"
    # Values are checked by core.config, for flags and files alike, so choices and ranges are not typer's business.
    kind: Any = list[str] if option.many else option.kind
    annotation = Annotated[
        kind | None, typer.Option(name, help=text, rich_help_panel=panel, show_default=False)
    ]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def split_settings(flags: Mapping[str, Any], file: str | None, *classes: type[Any]) -> list[Any]:
    """One instance of each settings class from a YAML file, where there is one, and the flags that override it."""
    values = {**(read_yaml(file) if file else {}), **flags}
    owners = {option.name: cls for cls in classes for option in options(cls)}
    for name in values:
        if name not in owners:
            raise unknown_key(name, owners, file or "command line")
    return [
        from_dict(
            cls,
            {name: value for name, value in values.items() if owners[name] is cls},
            file or "command line",
        )
        for cls in classes
    ]


def find_recipe(name: str) -> Path:
    """A settings file by path, or one of the recipes that come with the package by name."""
    path = Path(name)
    if path.is_file():
        return path
    for folder in _BUNDLED:
        names = path.name, f"{path.name}.yaml"
        for candidate in (place / name for place in (folder, folder / "published") for name in names):
            if candidate.is_file():
                return candidate
    known = sorted({p.stem for folder in _BUNDLED for p in folder.glob("*.yaml")})
    raise UserError(
        f"There is no settings file '{name}'; recipes that come with retromae: {', '.join(known)}."
    )


def ended(outcome: Outcome) -> None:
    """Say how a training job ended; one that was interrupted ends the program with the signal's code."""
    if not outcome.finished:
        if writes():
            errors.print(
                f"Stopped at step {outcome.steps}; a checkpoint is written. "
                "Go on with the same command and --resume.",
                highlight=False,
            )
        raise typer.Exit(128 + (outcome.signal or 0))
    if writes():
        console.print(
            f"Finished after {outcome.steps} steps: {outcome.output_dir / 'model'}",
            highlight=False,
            soft_wrap=True,
        )


def tell_warnings() -> None:
    """Print warnings as one sentence, without the place in the code that they come from."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        errors.print(f"[yellow]Warning:[/yellow] {escape(str(message))}", highlight=False, soft_wrap=True)

    warnings.showwarning = show


def fail(error: UserError) -> NoReturn:
    """One sentence, exit code 2."""
    if not error.told:
        errors.print(f"[red]Error:[/red] {escape(str(error))}", highlight=False, markup=True, soft_wrap=True)
    sys.exit(2)
