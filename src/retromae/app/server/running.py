"""From settings to a server that listens, and to its clean end."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from retromae.app.server.api import Api, create_app, status_router
from retromae.app.server.engine import Engine
from retromae.app.server.guard import Guard, is_local, local_names
from retromae.app.server.judgements import Judgements
from retromae.app.server.limits import Limits
from retromae.app.server.metrics import Metrics
from retromae.app.server.watch import Watched
from retromae.app.server.workbench import Bench, Workbench
from retromae.core.errors import UserError

_GRACE = 5  # seconds for requests that are being answered when the server is told to stop


def check_access(host: str, token: str | None, *, no_token: bool) -> None:
    """Whoever can reach the server can read the corpus: beyond this machine that takes a token, or a decision."""
    if token is not None:
        if no_token:
            raise UserError("--token and --no_token contradict each other; leave one out.")
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise UserError("the token must be one word of ASCII characters.")
    elif not is_local(host) and not no_token:
        raise UserError(
            f"--host {host} opens the server to other machines; give a --token (or RETROMAE_TOKEN), or say --no_token."
        )


def bind(host: str, port: int) -> socket.socket:
    """A socket with the port taken; 0 takes a free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port} is no address of this machine ({error}).") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} is in use; stop what listens there, or choose another with --port."
            ) from None
        raise UserError(f"cannot listen on {host}, port {port}: {error.strerror}.") from None
    return bound


def application(
    name: str,
    engine: Engine | None,
    judgements: Judgements,
    watched: Watched,
    limits: Limits,
    *,
    host: str = "127.0.0.1",
    names: Sequence[str] = (),
    token: str | None = None,
) -> ASGIApp:
    """Everything that is served, as one ASGI application; without an engine, the curves alone.

    `names` are those by which it may be called beside localhost, where only this machine can.
    """
    metrics = Metrics()
    api = bench = None
    if engine is not None:
        api = Api(engine, limits, metrics, name)
        bench = Bench(engine.systems, engine.encoder.source, judgements)
    app = create_app(api, status_router(metrics), Workbench(name, watched, bench).router())
    own = local_names(host)
    return Guard(app, limits, metrics, token=token, names=own and {*own, *map(str.lower, names)})


def server_of(app: ASGIApp, ready: Callable[[], None]) -> uvicorn.Server:
    """To be run with a bound socket. `ready` is called once it answers; SIGINT and SIGTERM end it well."""
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http="h11",
        ws="none",
        loop="asyncio",
        timeout_graceful_shutdown=_GRACE,
    )
    return _Server(config, ready)


def url_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Ends with the function that runs it, where uvicorn would raise the signal again."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def judgements_folder(served: str | Path) -> Path:
    """RUN/judgements for a run; beside an index, which is written whole and holds nothing else."""
    path = Path(served).resolve()
    return (
        path.with_name(f"{path.name}-judgements") if (path / "index.json").is_file() else path / "judgements"
    )
