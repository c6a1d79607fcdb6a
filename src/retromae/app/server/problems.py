"""Errors of the API: one shape everywhere, that of OpenAI's, with one sentence in it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from retromae.core.errors import UserError


class Refused(Exception):
    """A request that is not answered, with the status that says why."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers

    def response(self) -> JSONResponse:
        error: dict[str, Any] = {
            "message": self.message,
            "type": "invalid_request_error" if self.status < 500 else "server_error",
            "param": self.param,
            "code": self.code,
        }
        return JSONResponse({"error": error}, self.status, self.headers)


def answer_errors(app: FastAPI) -> None:
    """Every error that a route ends with becomes an answer of this shape."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return error.response()


async def _user_error(_: Request, error: Exception) -> JSONResponse:
    return Refused(400, str(error)).response()


async def _not_valid(_: Request, error: Exception) -> JSONResponse:
    """The first thing that is wrong with a body, in one sentence."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Refused(400, "the request is not valid JSON.").response()
    names = [str(part) for part in first["loc"][1:]]
    name = names[0] if names else None
    if first["type"] == "extra_forbidden":
        message = f"the field {'.'.join(names)} is not known."
    elif first["type"] == "missing":
        message = f"the field {'.'.join(names) or 'body'} is missing."
    else:
        says = first["msg"][:1].lower() + first["msg"][1:]
        message = f"{'.'.join(names) or 'the body'}: {says}."
    return Refused(400, message, param=name).response()


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = {404: "there is nothing at this address.", 405: f"{request.method} is not for this address."}
    return Refused(
        error.status_code,
        message.get(error.status_code, str(error.detail)),
        headers=dict(error.headers or {}),
    ).response()


async def _bug(_: Request, error: Exception) -> JSONResponse:
    return Refused(500, "something went wrong here; the server's log says what.").response()
