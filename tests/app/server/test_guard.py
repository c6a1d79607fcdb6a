"""Who may ask, how much, from where; and that no request reaches the file system."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from app.server.serving import Server, Setup, message, serving
from retromae.app.server.guard import is_local, local_names
from retromae.app.server.limits import Limits
from retromae.app.server.running import bind, check_access, url_of
from retromae.core.errors import UserError


def raw(server: Server, request: bytes) -> str:
    """The answer to bytes that no client library would send."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts).decode("utf-8", "replace")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[", "a b"]
)
def test_a_name_that_is_not_this_machines_is_refused(server: Server, host: str) -> None:
    response = raw(server, f"GET /about HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert response.startswith(("HTTP/1.1 403", "HTTP/1.1 400"))
    assert "passages" not in response


@pytest.mark.parametrize("host", ["localhost:1", "LOCALHOST", "127.0.0.1:9999", "[::1]:80"])
def test_its_own_names_are_not(server: Server, host: str) -> None:
    assert server.client.get("/about", headers={"host": host}).status_code == 200


def test_a_proxys_name_can_be_allowed(setup: Setup) -> None:
    with serving(replace(setup, names=["Search.Example"])) as server:
        for host in ("search.example", "SEARCH.example:443", "localhost"):
            assert server.client.get("/about", headers={"host": host}).status_code == 200
        assert server.client.get("/about", headers={"host": "other.example"}).status_code == 403


def test_pages_of_others_may_not_write(server: Server) -> None:
    judgement = {"query": "q", "passage": "p01", "grade": 3}
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}):
        response = server.client.post("/judgements", json=judgement, headers=headers)
        assert response.status_code == 403 and "other sites" in message(response)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        response = server.client.post(
            "/judgements",
            content=b'{"query": "q", "passage": "p01", "grade": 3}',
            headers={"content-type": kind},
        )
        assert response.status_code == 415
    assert server.client.get("/judgements").json()["judgements"] == 0
    assert (
        server.client.post("/judgements", json=judgement, headers={"origin": server.url}).status_code == 200
    )


def test_every_answer_has_its_headers(server: Server) -> None:
    for path in ("/", "/static/app.js", "/about", "/nothing", "/metrics"):
        headers = server.client.get(path).headers
        policy = headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers and "access-control-allow-origin" not in headers
    assert server.client.get("/about").headers["cache-control"] == "no-store"


@pytest.fixture
def locked(setup: Setup) -> Iterator[Server]:
    with serving(replace(setup, token="a-secret")) as server:
        yield server


def test_with_a_token_nothing_is_told_without_it(locked: Server) -> None:
    import openai  # takes seconds: where it is needed

    with httpx.Client(base_url=locked.url, trust_env=False) as stranger:
        for path in ("/about", "/metrics", "/judgements", "/runs", "/v1/models", "/openapi.json", "/nothing"):
            for given in (
                None,
                "Bearer",
                "Bearer a-secre",
                "Bearer a-secret2",
                "Basic a-secret",
                "a-secret",
                "Bearer ü",
            ):
                headers = {} if given is None else {"authorization": given.encode("latin-1")}
                response = stranger.get(path, headers=headers)
                assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
                assert "a-secret" not in message(response)
        assert stranger.post("/search", json={"query": "owl"}).status_code == 401
        for path in ("/", "/static/app.js", "/static/style.css", "/health"):
            assert stranger.get(path).status_code == 200
    assert locked.post("/search", query="owl").status_code == 200
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="a-secret", max_retries=0) as client:
        assert client.embeddings.create(model="tiny", input="owl").data
    with (
        openai.OpenAI(base_url=f"{locked.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="wants its token"),
    ):
        client.embeddings.create(model="tiny", input="owl")


def test_too_large_a_request(setup: Setup) -> None:
    with serving(replace(setup, limits=Limits(max_body_mb=0.01))) as server:
        response = server.post("/search", query="a" * 20000)
        assert response.status_code == 413 and "larger than 0.01 MiB" in message(response)
        endless = (b"x" * 4000 for _ in range(1000))
        kind = {"content-type": "application/json"}
        assert server.client.post("/search", content=endless, headers=kind).status_code == 413
        assert server.post("/search", query="a" * 1000).status_code == 200


def test_a_request_that_never_ends(setup: Setup) -> None:
    with serving(replace(setup, limits=Limits(timeout_seconds=0.3))) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            assert connection.recv(65536).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../judgements.py",
        "/static/..%2f..%2fapi.py",
        "/static/%2e%2e/api.py",
        "//etc/passwd",
        "/static//etc/passwd",
        "/static/app.js%00.html",
        "/static/app.js/../../server/api.py",
        "/runs/..%2f..%2fetc%2fpasswd/metrics",
        "/runs/-1/metrics",
        "/runs/99/metrics",
        "/runs/0/metrics/../../../etc/passwd",
        "/judgements/../../etc/passwd",
        "/index.html",
        "/static/index.html",
        "/..\\..\\etc\\passwd",
    ],
)
def test_no_path_leads_to_a_file(server: Server, path: str) -> None:
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    status = answer.split()[1]
    assert status in ("400", "404"), answer[:300]
    assert "root:" not in answer and "import " not in answer


def test_ids_are_not_paths(server: Server) -> None:
    for passage in ("../../etc/passwd", "/etc/passwd", "index.json", "p01/../p02", "\x00"):
        response = server.post("/judgements", query="q", passage=passage, grade=2)
        assert response.status_code == 404 and "there is no passage" in message(response)
    assert not server.judgements.folder.exists()


def test_hosts() -> None:
    assert all(map(is_local, ("localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]")))
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.1.2", "example.org", "")))
    assert local_names("0.0.0.0") is None
    assert "127.8.8.8" in (local_names("127.8.8.8") or ())


def test_a_server_for_others_wants_a_token() -> None:
    with pytest.raises(UserError, match=r"--host 0\.0\.0\.0 opens the server to other machines"):
        check_access("0.0.0.0", None, no_token=False)
    check_access("0.0.0.0", None, no_token=True)
    check_access("0.0.0.0", "secret", no_token=False)
    check_access("localhost", None, no_token=False)
    for token in ("", "two words", "schlüssel", "a\n"):
        with pytest.raises(UserError, match="one word of ASCII"):
            check_access("localhost", token, no_token=False)
    with pytest.raises(UserError, match="contradict"):
        check_access("localhost", "secret", no_token=True)


def test_addresses() -> None:
    with bind("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(UserError, match=rf"port {first.getsockname()[1]} is in use"):
            bind("127.0.0.1", first.getsockname()[1])
        assert url_of(first) == f"http://127.0.0.1:{first.getsockname()[1]}"
    with pytest.raises(UserError, match=r"no address of this machine|cannot listen"):
        bind("203.0.113.7", 0)


def test_limits_make_sense() -> None:
    for wrong in (
        {"max_batch": 0},
        {"max_k": -1},
        {"timeout_seconds": 0.0},
        {"max_wait_ms": -1.0},
        {"max_body_mb": float("nan")},
    ):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} must be at least"):
            Limits(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must hold one request"):
        Limits(max_queue=10)
