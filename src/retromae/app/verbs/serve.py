"""retromae serve"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retromae.app.flags import console, with_flags
from retromae.app.server.limits import Limits
from retromae.core.config import from_dict, options
from retromae.core.errors import UserError

if TYPE_CHECKING:
    from retromae.app.server.engine import Engine


@with_flags({"limits": options(Limits)})
def command(
    folder: Annotated[str, typer.Argument(help="run of `retromae adapt`, index, or a run in training")],
    flags: dict[str, Any],
    host: Annotated[str, typer.Option("--host", help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one", min=0, max=65535)] = 8000,
    against: Annotated[
        str | None, typer.Option("--against", help="another index, to compare with as 'before'")
    ] = None,
    reranker: Annotated[
        str | None, typer.Option("--reranker", help="cross-encoder for /rerank (default: the encoder itself)")
    ] = None,
    watch: Annotated[
        list[str] | None, typer.Option("--watch", help="run folder whose curves are drawn live; several")
    ] = None,
    judgements: Annotated[
        str | None,
        typer.Option("--judgements", help="where grades are kept (default: in the run, beside the index)"),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", envvar="RETROMAE_TOKEN", help="what clients must send; safer in the environment"
        ),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no_token", help="let other machines in without a token")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow_host", help="name by which a proxy on this machine calls the server; several"),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="where the encoder lies now, if it was moved")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", help="whose words BM25 stems (default: the run's, or english)")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda …")] = None,
) -> None:
    """A workbench and an API on this machine: search, compare, judge, watch."""
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} is missing; install it: pip install 'retromae[serve]'.")
    from retromae.app.server import running
    from retromae.app.server.engine import Engine, open_reranker
    from retromae.app.server.judgements import Judgements
    from retromae.app.server.watch import Watched
    from retromae.retrieval.systems import open_systems

    limits = from_dict(Limits, flags, "command line")
    running.check_access(host, token, no_token=no_token)
    place, name = Path(folder), Path(folder).resolve().name
    searchable = (place / "index.json").is_file() or (place / "index").is_dir()
    training = not searchable and any((place / file).exists() for file in ("metrics.jsonl", "stages"))
    if training and (against or reranker):
        raise UserError(f"{folder} has no index yet, only curves; leave out --against and --reranker.")
    own = [folder] if training or (place / "stages").is_dir() else []
    watched = Watched([*own, *(watch or [])])
    with (
        running.bind(host, port) as bound,
        Judgements(judgements or running.judgements_folder(folder)) as kept,
    ):
        engine = None
        if not training:
            with console.status(f"Opening {folder} …"):
                systems = open_systems(folder, against=against, model=model, device=device, language=language)
                engine = Engine(systems, open_reranker(reranker, device) if reranker else None)
        app = running.application(
            name, engine, kept, watched, limits, host=host, names=allow_host or [], token=token
        )
        ready = f"{name}: {_what(engine)}.\nOpen {running.url_of(bound)} (stop with Ctrl-C)."
        running.server_of(app, lambda: _print(ready)).run(sockets=[bound])
    _print("Stopped.")


def _what(engine: Engine | None) -> str:
    if engine is None:
        return "no index yet, so there is nothing to search; the curves of its training are live"
    return f"{len(engine.systems.indexes[0]):,} passages, searched by {', '.join(engine.systems)}"


def _print(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
