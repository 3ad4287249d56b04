"""Headers that keep browsers from doing more with an answer than reading it, and CORS."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.settings import CorsSettings

JSON = "application/json"
_EXPOSED = (
    "x-request-id",
    "x-forethought-cache",
    "retry-after",
    *(
        f"x-ratelimit-{part}-{what}"
        for what in ("requests", "tokens")
        for part in ("limit", "remaining", "reset")
    ),
)
"""What a page of another origin may read."""


def security_headers(scheme: str, content_type: str) -> Mapping[str, str]:
    """Return the headers of an answer; answers are one client's, and no cache may keep them."""
    headers = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
    if content_type.startswith(JSON):
        headers["content-security-policy"] = "default-src 'none'; frame-ancestors 'none'"
    if scheme == "https":  # told over plain HTTP, browsers ignore it
        headers["strict-transport-security"] = "max-age=31536000"
    return headers


class SecurityHeaders:
    """Puts them on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                kind = headers.get("content-type", "")
                headers.update(security_headers(scope["scheme"], kind))
            await send(message)

        await self._app(scope, receive, send_secured)


def add_cors(app: FastAPI, settings: CorsSettings) -> None:
    """Let pages of the configured origins ask; by default, those of none."""
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
