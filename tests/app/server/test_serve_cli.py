"""`retromae serve` as it is typed: how it starts, why it does not, how it ends."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from app.command_line import CommandLine
from retromae.app.server.running import bind


def free_port() -> int:
    with bind("127.0.0.1", 0) as bound:
        return int(bound.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_and_ends_well(
    retromae: CommandLine, run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    port, seen = free_port(), []

    def use() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            for _ in range(400):
                try:
                    seen.append(client.get("/health").status_code)
                    break
                except httpx.ConnectError:
                    time.sleep(0.05)
            slow = threading.Thread(target=lambda: seen.append(search(client)))
            slow.start()
            time.sleep(0.1)  # it waits for others to share a pass with while the signal comes
            os.kill(os.getpid(), number)
            slow.join()

    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    user = threading.Thread(target=use)
    user.start()
    words = ["--port", port, "--judgements", tmp_path / "j", "--max_wait_ms", 400, "--token", "secret"]
    done = retromae("serve", run, *words)
    user.join()
    assert done.code == 0, done
    assert seen == [200, 200]
    assert "run: 26 passages, searched by dense, bm25, fused, before." in done.out
    assert f"Open http://127.0.0.1:{port}" in done.out and "Stopped." in done.out and "secret" not in done.out
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before
    with bind("127.0.0.1", port):
        pass


def search(client: httpx.Client) -> int:
    """On a connection that stands already: a new one may come after the server has heard that it ends."""
    secret = {"authorization": "Bearer secret"}
    return client.post("/search", json={"query": "owl"}, headers=secret).status_code


def test_what_cannot_be_served(
    retromae: CommandLine, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RETROMAE_TOKEN", raising=False)
    training = tmp_path / "training"
    training.mkdir()
    (training / "metrics.jsonl").touch()
    broken = shutil.copytree(run / "index", tmp_path / "broken")
    (broken / "dense.faiss").write_bytes(b"x")
    (tmp_path / "bad-judgements").mkdir()
    (tmp_path / "bad-judgements" / "judgements.jsonl").write_text("{}\n")
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        for words, sentence in (
            ([tmp_path / "nowhere"], "is no run of `retromae adapt` and no index"),
            ([broken], "missing or truncated; build the index again"),
            ([run, "--port", port], f"port {port} is in use"),
            ([run, "--host", "0.0.0.0"], "opens the server to other machines"),
            ([run, "--host", "203.0.113.7", "--no_token"], "203.0.113.7"),
            ([run, "--watch", tmp_path / "nowhere"], "there is no run folder"),
            ([run, "--against", tmp_path / "nowhere"], "is no index"),
            ([run, "--reranker", run / "model"], "is no cross-encoder"),
            ([run, "--judgements", tmp_path / "bad-judgements"], "judgements.jsonl:1 is damaged"),
            ([training, "--reranker", run], "has no index yet, only curves"),
            ([run, "--max_batch", 0], "max_batch must be at least 1"),
            ([run, "--language", "klingon"], "language 'klingon' is not known"),
            ([run, "--token", "two words"], "one word of ASCII"),
        ):
            port_words = [] if "--port" in words else ["--port", 0]
            done = retromae("serve", *words, *port_words)
            assert done.code == 2, (words, done)
            assert sentence in done.err and done.err.count("\n") <= 3, (words, done)
            assert "Traceback" not in done.err


def test_without_the_extra_it_names_the_command(
    retromae: CommandLine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "retromae.app.verbs.serve.find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    done = retromae("serve", run)
    assert done.code == 2
    assert "uvicorn is missing; install it: pip install 'retromae[serve]'" in done.err
