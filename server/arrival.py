"""How fast a request's body has to come: a client that sends a byte now and then holds no place."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from verifiers.errors import BadRequest

BYTES_PER_SECOND = 10_000
"""For so many bytes that came there is one more second for the rest."""


class BodyTooSlow(BadRequest):
    """The body did not come in time."""

    status = 408


class Arrival:
    """Gives a body some seconds to come, and one more for each 10,000 bytes of it."""

    def __init__(self, app: ASGIApp, body_s: float) -> None:
        self._app = app
        self._body_s = body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        due, coming = asyncio.get_running_loop().time() + self._body_s, True

        async def receive_in_time() -> Message:
            """Raise BodyTooSlow where the route waits for the body in vain."""
            nonlocal due, coming
            if not coming:
                return await receive()
            try:
                async with asyncio.timeout_at(due):
                    message = await receive()
            except TimeoutError:
                raise BodyTooSlow("the body comes too slowly") from None
            coming = message.get("more_body", False)
            due += len(message.get("body", b"")) / BYTES_PER_SECOND
            return message

        await self._app(scope, receive_in_time, send)
