"""Real servers on free ports, each in a thread of the test's process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from retromae.app.server import running
from retromae.app.server.engine import Engine
from retromae.app.server.judgements import Judgements
from retromae.app.server.limits import Limits
from retromae.app.server.watch import Watched
from retromae.text.store import Passage
from tiny import SENTENCES

CORPUS = [
    *(Passage(f"p{n:02d}", f"Note {n}", text) for n, text in enumerate(SENTENCES)),
    Passage(
        "evil",
        "<img src=x onerror='window.hacked=1'>",
        "<script>window.hacked=1</script> an owl & a <b>map</b>",
    ),
    Passage("owls", "🦉🦉 Owls", "🦉 Ten owls kept the map of the tower."),
]


@dataclass
class Server:
    """What a test knows of a server that runs."""

    url: str
    client: httpx.Client
    given: Engine | None
    judgements: Judgements

    @property
    def engine(self) -> Engine:
        assert self.given is not None
        return self.given

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def metric(self, name: str) -> float:
        """One figure of /metrics, by its name and labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.rpartition(" ")[0] == name))


@dataclass
class Setup:
    """How a server is started."""

    engine: Engine | None
    judgements: Path
    watch: Sequence[Path] = ()
    limits: Limits = field(default_factory=Limits)
    token: str | None = None
    names: Sequence[str] = ()


@contextmanager
def serving(setup: Setup) -> Iterator[Server]:
    bound = running.bind("127.0.0.1", 0)
    ready = threading.Event()
    with bound, Judgements(setup.judgements) as judgements:
        app = running.application(
            "tiny",
            setup.engine,
            judgements,
            Watched(setup.watch),
            setup.limits,
            names=setup.names,
            token=setup.token,
        )
        server = running.server_of(app, ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        assert ready.wait(30)
        headers = {"authorization": f"Bearer {setup.token}"} if setup.token else {}
        url = running.url_of(bound)
        with httpx.Client(base_url=url, timeout=30, headers=headers, trust_env=False) as client:
            yield Server(url, client, setup.engine, judgements)
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def message(response: httpx.Response) -> str:
    """The sentence of an error, after a look at its shape."""
    error = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["type"] == ("invalid_request_error" if response.status_code < 500 else "server_error")
    return str(error["message"])
