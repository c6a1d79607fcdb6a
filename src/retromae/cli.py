"""The command line: verbs, thin. Each reads its settings and calls one function of the package."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated, Any, Literal, Optional

import typer
from rich.console import Console

from retromae import __version__
from retromae.app.flags import errors, fail, find_recipe, with_flags
from retromae.core.config import from_dict, options, read_yaml, to_yaml
from retromae.core.errors import UserError
from retromae.text.prepare import PrepareConfig

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Turn a pile of text into a better retriever.",
    context_settings={"token_normalize_func": lambda token: token.replace("-", "_")},  # --a-b is --a_b
)
console = Console()

Recipe = Annotated[Optional[str], typer.Argument(help="YAML with settings, or the name of a recipe")]  # noqa: UP045
PrintConfig = Annotated[bool, typer.Option("--print_config", help="show the resolved settings and stop")]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="show the version and stop")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of every error")] = False,
) -> None:
    if version:
        console.print(f"retromae {__version__}", highlight=False)
        raise typer.Exit()
    if debug:
        os.environ["RETROMAE_DEBUG"] = "1"


@app.command("prepare")
@with_flags({"settings": [option for option in options(PrepareConfig) if option.name != "sources"]})
def prepare_command(
    sources: Annotated[list[str], typer.Argument(help="folders, files or hub data sets")],
    flags: dict[str, Any],
    print_config: PrintConfig = False,
) -> None:
    """Text to token rows: documents, passages, tokens, on disk. Goes on where it was interrupted."""
    config = from_dict(PrepareConfig, {"sources": sources, **flags}, "command line")
    if print_config:
        return console.print(to_yaml(vars(config)), highlight=False)
    from retromae.text.prepare import prepare

    info = prepare(config)
    console.print(info)


def _pretrain_panels() -> dict[str, Any]:
    from retromae.objectives import available, load
    from retromae.training.settings import PretrainConfig

    by_option: dict[Any, list[str]] = {}
    for name in available():
        for option in options(load(name).Config):
            by_option.setdefault(option, []).append(name)
    panels: dict[str, Any] = {"run": options(PretrainConfig)}
    for option, names in by_option.items():
        panels.setdefault(f"objective: {', '.join(names)}", []).append(option)
    return panels


@app.command("pretrain")
@with_flags(_pretrain_panels())
def pretrain_command(
    flags: dict[str, Any],
    recipe: Recipe = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on where the run in output_dir was interrupted")
    ] = False,
    set: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="name=value: a setting of an objective that lives outside the package"),
    ] = None,
    print_config: PrintConfig = False,
) -> None:
    """Pre-train an encoder for retrieval on token rows, from a model or from scratch."""
    from retromae.training.settings import resolve

    values = read_yaml(find_recipe(recipe)) if recipe else {}
    for item in set or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--set takes name=value, not '{item}'.")
        values[name.replace("-", "_")] = value
    settings = resolve({**values, **flags}, "settings")
    if print_config:
        return console.print(to_yaml(settings.flat()), highlight=False)
    from retromae.training.pretrain import pretrain

    outcome = pretrain(settings, resume=resume, console=console)
    if not outcome.finished:
        errors.print(
            f"Stopped at step {outcome.steps}; a checkpoint is written. Go on with the same command and --resume.",
            highlight=False,
        )
        raise typer.Exit(128 + (outcome.signal or 0))
    console.print(f"Finished after {outcome.steps} steps: {outcome.output_dir / 'model'}", highlight=False)


@app.command("import")
def import_command(
    source: Annotated[
        str, typer.Argument(help="hub folder or name, or a released RetroMAE or Condenser checkpoint")
    ],
    out: Annotated[str, typer.Argument(help="checkpoint folder to write")],
    tokenizer: Annotated[
        Optional[str], typer.Option("--tokenizer", help="tokenizer, if the source has none")
    ] = None,  # noqa: UP045
    pooling: Annotated[
        Literal["cls", "mean", "keep"], typer.Option("--pooling", help="how the vector is taken")
    ] = "cls",
) -> None:
    """Turn a foreign checkpoint into one that loads everywhere and can be continued; say what starts fresh."""
    from retromae.models.importing import import_checkpoint

    for line in import_checkpoint(source, out, tokenizer, pooling).lines():
        console.print(line, highlight=False, markup=False)


def main() -> None:
    """Entry point of the `retromae` command and of `python -m retromae`."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("transformers", "datasets", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        app()
    except UserError as error:
        if os.environ.get("RETROMAE_DEBUG"):
            raise
        fail(error)
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        sys.exit(130)
