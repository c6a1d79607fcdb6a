"""The command line: verbs, thin. What a verb does is in `app/verbs/`, and what that calls is the library."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from retromae import __version__
from retromae.app.flags import console, errors, fail, tell_warnings
from retromae.app.verbs import VERBS, command_of, listed
from retromae.core.errors import UserError
from retromae.core.files import no_room


class Verbs(TyperGroup):
    """Commands that are imported when they are needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        return (
            listed(cmd_name)
            if ctx.invoked_subcommand is None and not _called(cmd_name)
            else command_of(cmd_name)
        )


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
    except Exception as error:
        if os.environ.get("RETROMAE_DEBUG") or not no_room(error):
            raise
        fail(
            UserError(
                "the disk is full; make room and give the same command again. What was finished is kept."
            )
        )
