"""A worker's HTTP interface: it tells how it is, and leaves clients to others."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import NotFound, error_response

_HEALTH = frozenset({"/healthz", "/readyz", "/metrics"})


class HealthOnly:
    """Passes on what asks for health and metrics."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or say that nothing else is here."""
        if scope["type"] != "http" or scope["path"] in _HEALTH:
            await self._app(scope, receive, send)
            return
        refusal = NotFound("this is a worker on batches: it answers no requests")
        await error_response(refusal)(scope, receive, send)
