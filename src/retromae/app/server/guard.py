"""What holds for every request: who may ask, how much, from where; and the headers of every answer."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retromae.app.server.limits import Limits
from retromae.app.server.metrics import Metrics
from retromae.app.server.problems import Refused

OPEN = frozenset({"/", "/static/app.js", "/static/style.css", "/health"})  # no data: readable without a token
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def is_local(host: str) -> bool:
    """Can only this machine reach a server that listens there?"""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def local_names(host: str) -> frozenset[str] | None:
    """The names by which a browser may call a local server, None for any: a page of a stranger whose name was
    pointed at this machine calls it by another one (DNS rebinding)."""
    return frozenset({"localhost", "127.0.0.1", "::1", host.strip("[]")}) if is_local(host) else None


class Guard:
    """Wraps the application."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        *,
        token: str | None = None,
        names: Collection[str] | None = None,
    ) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._token = token.encode() if token is not None else None
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start, status = time.monotonic(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope)
            receive = await self._with_body(scope, receive)
            await self._app(scope, receive, answer)
        except Refused as refused:
            await refused.response()(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "POST") else "other"
            self._metrics.request(method, route, status, time.monotonic() - start)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._names is not None and _name_of(host) not in self._names:
            raise Refused(
                403, "this server answers to localhost only; open it by that name.", code="wrong_host"
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refused(403, "requests from pages of other sites are refused.", code="wrong_origin")
        if self._token is not None and scope["path"] not in OPEN:
            self._check_token(headers.get("authorization", ""))
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            raise Refused(415, "send JSON, with the header Content-Type: application/json.")

    def _check_token(self, given: str) -> None:
        assert self._token is not None
        scheme, _, token = given.partition(" ")
        right = hmac.compare_digest(token.strip().encode(), self._token)
        if scheme.lower() != "bearer" or not right:
            raise Refused(
                401,
                "this server wants its token: send the header Authorization: Bearer TOKEN.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    async def _with_body(self, scope: Scope, receive: Receive) -> Receive:
        """The body read to its end, within size and time, and handed on as one message."""
        if scope["method"] != "POST":
            return receive
        most = int(self._limits.max_body_mb * 2**20)
        stated = Headers(scope=scope).get("content-length", "0")
        if not stated.isdecimal() or int(stated) > most:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                more = True
                while more:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise self._too_large()
        except TimeoutError:
            raise Refused(
                408, "the request did not arrive in time.", headers={"connection": "close"}
            ) from None
        handed = False

        async def whole() -> Message:
            nonlocal handed
            if handed:
                return await receive()
            handed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return whole

    def _too_large(self) -> Refused:
        return Refused(
            413,
            f"the request is larger than {self._limits.max_body_mb:g} MiB; send less at once.",
            headers={"connection": "close"},
        )


def _name_of(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
