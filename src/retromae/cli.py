"""The command line: verbs, thin. What a verb does is in `app/verbs/`, and what that calls is the library."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from retromae import __version__
from retromae.app.flags import console, errors, fail, tell_warnings
from retromae.core.errors import UserError

# verb → (module, what it does); a module is imported when its verb is called
VERBS = {
    "prepare": ("prepare", "Text to token rows: documents, passages, tokens, on disk."),
    "pretrain": ("pretrain", "Pre-train an encoder for retrieval, from a model or from scratch."),
    "import": ("import_", "Turn a foreign checkpoint into one that loads everywhere."),
    "encode": ("encode", "A corpus to vectors on disk."),
    "index": ("index", "Vectors to an index: flat, HNSW, IVF-PQ, int8 or binary."),
    "search": ("search", "Find passages by text, and say why they were found."),
    "evaluate": ("evaluate", "Measure retrievers against each other: figures, intervals, tests."),
}


class Verbs(TyperGroup):
    """Commands that are imported when they are needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module, summary = VERBS[cmd_name]
        verb = typer.Typer(add_completion=False)
        if ctx.invoked_subcommand is None and not _called(cmd_name):
            verb.command(cmd_name, help=summary)(lambda: None)  # for the list in --help alone
        else:
            verb.command(cmd_name)(importlib.import_module(f"retromae.app.verbs.{module}").command)
        return typer.main.get_command(verb)


def _called(name: str) -> bool:
    return name in sys.argv[1:]


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Turn a pile of text into a better retriever.",
    context_settings={"token_normalize_func": lambda token: token.replace("-", "_")},  # --a-b is --a_b
)


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


def main() -> None:
    """Entry point of the `retromae` command and of `python -m retromae`."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    tell_warnings()
    for name in ("transformers", "datasets", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except UserError as error:
        if os.environ.get("RETROMAE_DEBUG"):
            raise
        fail(error)
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        sys.exit(130)
