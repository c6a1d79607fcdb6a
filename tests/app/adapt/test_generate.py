"""Questions by a language model behind a real HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.adapt.made import write_text
from app.adapt.test_corpus import opened, settings, written
from retromae.app.adapt import generate as module
from retromae.app.adapt.generate import GENERATED, generate
from retromae.app.adapt.settings import AdaptConfig
from retromae.core.errors import UserError


class Model:
    """A server that asks about the last word of a passage; it counts, and can be told to fail."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.failures = 0
        self.code = 503
        self.dies_after: int | None = None
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.headers.append(self.headers.get("Authorization"))
                if model.dies_after is not None and len(model.asked) >= model.dies_after:
                    return self._send(401, {"error": "no longer"})
                if model.failures:
                    model.failures -= 1
                    return self._send(model.code, {"error": "busy"})
                model.asked.append(body)
                word = body["messages"][0]["content"].split()[-1].strip(".")
                text = f'<think>hm</think>\n1. "what about {word}"\nThis query asks …'
                self._send(200, {"choices": [{"message": {"content": text}}]})

            def _send(self, code: int, answer: Any) -> None:
                data = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def model() -> Iterator[Model]:
    found = Model()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAIT", 0.001)


def asking(tmp_path: Path, url: str, **more: Any) -> tuple[AdaptConfig, Path]:
    run = tmp_path / "run"
    source = write_text(tmp_path / "text.jsonl")
    written(source, run)
    return settings(source, generate_url=url, generate_model="m", **{"generate_most": 20, **more}), run


def test_questions_join_the_training_queries(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    config, run = asking(tmp_path, model.url)
    before = len(opened(run, "train"))
    assert generate(config, run) == 20
    pairs = opened(run, "train")
    assert len(pairs) == before + 20 and len(model.asked) == 20
    rows = [row for row in range(len(pairs)) if pairs.queries[row].id.startswith("generated:")]
    for row in rows:
        answer = pairs.passages[int(pairs.positives[row][0])]
        assert pairs.queries[row].text == f"what about {answer.text.split()[-1].strip('.')}"
        assert pairs.queries[row].id == f"generated:{answer.id}"
    assert set(model.headers) == {"Bearer secret"} and model.asked[0]["model"] == "m"
    assert generate(config, run) == 20 and len(model.asked) == 20, "what was asked is not asked again"
    assert len(opened(run, "train")) == before + 20


def test_held_out_documents_are_never_asked_about(model: Model, tmp_path: Path) -> None:
    config, run = asking(tmp_path, model.url, generate_most=100_000)
    generate(config, run)
    judged = opened(run, "judged")
    held_out = {judged.passages[int(number)].text for number in judged.positives.members}
    asked = "\n".join(body["messages"][0]["content"] for body in model.asked)
    assert held_out and not any(text in asked for text in held_out)


def test_a_busy_server_is_asked_again_and_a_refusal_is_one_sentence(model: Model, tmp_path: Path) -> None:
    config, run = asking(tmp_path, model.url)
    model.failures = 3
    assert generate(config, run) == 20
    (run / GENERATED).unlink()
    model.asked.clear()
    model.dies_after = 7
    with pytest.raises(UserError, match=r"refuses .401"):
        generate(config, run)
    kept = (run / GENERATED).read_text().splitlines()
    assert len(kept) == 7
    model.dies_after = None
    assert generate(config, run) == 20 and len(model.asked) == 20, "seven were kept"


def test_nobody_there_is_one_sentence(tmp_path: Path) -> None:
    config, run = asking(tmp_path, "http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match="does not answer"):
        generate(config, run)


@pytest.mark.parametrize(
    ("said", "query"),
    [
        ("why is the sky blue", "why is the sky blue"),
        ("Search query: “why blue?”", "why blue?"),
        ("\n\n- blue sky\nbecause …", "blue sky"),
        ("", ""),
        ("x" * 400, ""),
    ],
)
def test_the_query_is_taken_out_of_what_was_said(said: str, query: str) -> None:
    assert module._query({"choices": [{"message": {"content": said}}]}) == query


def test_an_answer_of_another_protocol_is_told() -> None:
    with pytest.raises(ValueError, match="choices"):
        module._query({"text": "hello"})
