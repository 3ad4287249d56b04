"""The one place where errors become OpenAI error objects with a status and headers."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from server.disconnect import ClientGone
from server.draining import ServerEnding
from server.keys.errors import Unauthenticated
from server.security import JSON, security_headers
from server.state import State
from server.store.base import StoreUnavailable
from strategies.budget import Ledger, Limit
from verifiers.errors import (
    BadRequest,
    BudgetSpent,
    EngineUnavailable,
    ForethoughtError,
    Overloaded,
)

CLIENT_GONE = 499
"""What logs and metrics call an answer that nobody waits for."""
MOST_TOLD = 1000
"""Characters of a message."""
RETRY_AFTER_S = 5
"""Told where an engine or the store does not answer, or the server ends."""

_log = logging.getLogger("forethought.errors")


class NotFound(ForethoughtError):
    """There is nothing under that name, or not by that method."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


def error_object(error: ForethoughtError) -> dict[str, Any]:
    """Return the body of an error answer, or of a stream's error frame."""
    error = _told(error)
    param = None if error.param is None else _shortened(error.param)
    message = _shortened(error.message)
    return {"error": {"message": message, "type": error.type, "param": param, "code": error.code}}


def _shortened(text: str) -> str:
    """Return a text that may quote what a client sent, but not at length."""
    return text if len(text) <= MOST_TOLD else f"{text[:MOST_TOLD]}…"


def error_status(error: ForethoughtError) -> int:
    """Return the HTTP status."""
    return _told(error).status


def error_response(error: ForethoughtError, *, spent: bool = False) -> Response:
    """Answer with an error; `spent`: work was done, so that a silent retry would pay again."""
    headers = {}
    if spent:
        headers["x-should-retry"] = "false"
    elif isinstance(error, Overloaded):
        headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, EngineUnavailable | StoreUnavailable | ServerEnding):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    elif isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    body = to_json(error_object(error))
    return Response(body, error_status(error), headers, "application/json")


def log_error(error: ForethoughtError, request_id: str) -> None:
    """Log what went wrong by its class and field: messages may quote what the client sent."""
    _log.warning("%s: %s, param %.100r", request_id, type(error).__name__, error.param)


def add_error_handlers(app: FastAPI) -> None:
    """Let every error that leaves a route become an OpenAI error object."""
    app.add_exception_handler(ForethoughtError, _on_ours)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientGone, _on_gone)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_fault)


def _told(error: ForethoughtError) -> ForethoughtError:
    """A budget that could pay for nothing was too small for what the client asked."""
    if not isinstance(error, BudgetSpent):
        return error
    param = {Limit.TOKENS: "max_tokens", Limit.CALLS: "max_calls"}.get(Limit(error.limit))
    return BadRequest(
        "the budget does not pay for one sample",
        param=f"budget.{param or 'deadline_s'}",
        code="budget_too_small",
    )


async def _on_ours(request: Request, error: Exception) -> Response:
    """Answer with the error; the route leaves the ledger in the scope once there is one."""
    assert isinstance(error, ForethoughtError)
    _count(request, error)
    log_error(error, request.scope["request_id"])
    ledger: Ledger | None = request.scope.get("ledger")
    return error_response(error, spent=ledger is not None and ledger.total.completion_tokens > 0)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:])
    return await _on_ours(request, BadRequest(first["msg"], param=param or None))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = NotFound(f"{request.method} {request.url.path}: {error.detail}")
    told.status = error.status_code  # 404, or 405 with its `Allow`
    response = await _on_ours(request, told)
    response.headers.update(error.headers or {})
    return response


async def _on_gone(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=CLIENT_GONE)


async def _on_fault(request: Request, error: Exception) -> Response:
    """Tell nothing of a fault of ours; the server's log has the traceback."""
    _count(request, error)
    response = error_response(ForethoughtError("the server failed"), spent=True)
    # This one is sent outside of all middleware.
    response.headers["x-request-id"] = request.scope["request_id"]
    response.headers.update(security_headers(request.scope["scheme"], JSON))
    return response


def _count(request: Request, error: Exception) -> None:
    state: State = request.app.state.forethought
    state.metrics.error(type(error).__name__)
