"""The gate: a request passes with a key whose scopes cover where it goes."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from server.identity import PLACE
from server.keys.errors import Forbidden, Unauthenticated
from server.keys.ring import KeyRing
from server.keys.scopes import OPEN, needed
from server.rate_limits import rate_limit_headers
from server.store.limits import Limits

_Headers = Sequence[tuple[bytes, bytes]]


class Authentication:
    """Lets in who has a key for it, and tells every answer how the key's quotas stand.

    It raises what is to be answered: it stands inside of what maps errors.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, limits: Limits) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key, and pass the request on. Raises as `KeyRing.identify`, and Forbidden."""
        if scope["type"] == "websocket":  # this server has none, and none slips by
            await WebSocketClose()(scope, receive, send)
            return
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        identity = await self._keys.identify(presented(scope["headers"]))
        if (wanted := needed(scope["path"])) not in identity.scopes:
            raise Forbidden(f"this API key has not the scope {wanted!r}")
        scope[PLACE] = identity

        async def send_with_levels(message: Message) -> None:
            if message["type"] == "http.response.start":
                levels = await rate_limit_headers(identity, self._limits)
                message["headers"] = [*message["headers"], *levels]
            await send(message)

        await self._app(scope, receive, send_with_levels)


def add_authentication(app: FastAPI, keys: KeyRing, limits: Limits) -> None:
    """Let the app ask for keys; the error handlers that it has by now tell who is refused."""
    app.add_middleware(Authentication, keys=keys, limits=limits)
    known = app.exception_handlers.items()
    handlers = {kind: handler for kind, handler in known if kind is not Exception}
    app.add_middleware(ExceptionMiddleware, handlers=handlers)


def presented(headers: _Headers) -> str:
    """Read the key as OpenAI's clients send it: a bearer, or in Azure's `api-key`.

    Raises:
        Unauthenticated: there is none.
    """
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                return key.strip()
        elif name == b"api-key":
            return value.decode("latin-1").strip()
    raise Unauthenticated("send an API key, as `Authorization: Bearer ft-…`")
