"""What surrounds every request: its id and trace, a line in the log, the counts of requests."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.checkpoints.in_flight import InFlight
from server.identity import identity_of
from server.logs import Access
from server.metrics import UNMATCHED, Metrics
from server.telemetry.base import Tracing
from strategies.budget import Ledger
from verifiers.types import Usage

_HEADER = b"x-request-id"
_TAKEN = re.compile(rb"[!-~]{1,128}")
"""A client's own id is kept if it is short and cannot break a log line."""
_CHAT = "/chat/completions"

_log = logging.getLogger("forethought.access")


class RequestLine:
    """Gives each request its id, and tells log, metrics and trace how it ended.

    What it finds by a name is kept for it until then: see `InFlight`.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, in_flight: InFlight, tracing: Tracing
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._in_flight = in_flight
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = time.monotonic()
        request_id = _request_id(scope)
        scope["request_id"] = request_id.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope.setdefault("status", message["status"])
                message["headers"] = [*message["headers"], (_HEADER, request_id)]
            await send(message)

        with self._tracing.request(scope):
            try:
                with self._in_flight.request(), self._metrics.answering():
                    await self._app(scope, receive, send_with_id)
            finally:
                self._tell(scope, time.monotonic() - received)

    def _tell(self, scope: Scope, seconds: float) -> None:
        route, matched = UNMATCHED, scope.get("route")
        if matched is not None:
            route = matched.path
        strategy, status = scope.get("strategy", ""), scope.get("status", 500)
        if "strategy" in scope or scope["path"].endswith(_CHAT):
            self._metrics.request(strategy, status, seconds)
        self._metrics.answered(scope["method"], route, status)
        ledger: Ledger | None = scope.get("ledger")
        spent = Usage() if ledger is None else ledger.total
        _log.info(
            Access(
                scope["method"],
                scope["path"],
                route,
                status,
                round(seconds, 6),
                strategy,
                spent.prompt_tokens,
                spent.completion_tokens,
                identity_of(HTTPConnection(scope)).owner,
            )
        )


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == _HEADER and _TAKEN.fullmatch(value):
            return bytes(value)
    return secrets.token_hex(8).encode()
