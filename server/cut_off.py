"""What clients are told when the server ends before their answer does.

Running requests are cancelled at the end of the drain. A cancelled request stops all its work, as
it does when its client hangs up, and only then has its last word: an error answer where none has
begun, an error frame at the end of a stream.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.draining import Draining, ServerEnding
from server.errors import error_response
from server.streaming import error_frame
from strategies.budget import Ledger

_STREAM = (b"content-type", b"text/event-stream")


class CutOff:
    """Lets requests that the server's end cancels have their last word."""

    def __init__(self, app: ASGIApp, draining: Draining) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun: list[bool] = []
        """Whether the answer that has begun is a stream; empty before."""

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.append(any(_is_stream(*each) for each in message["headers"]))
                if self._draining.begun:  # the client's next request shall find another server
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except asyncio.CancelledError:
            if not self._draining.over:
                raise
            if not begun:
                ledger: Ledger | None = scope.get("ledger")
                spent = ledger is not None and ledger.total.completion_tokens > 0
                await error_response(ServerEnding(), spent=spent)(scope, receive, send_on)
            elif begun == [True]:
                frame = error_frame(ServerEnding(), scope["request_id"])
                await send({"type": "http.response.body", "body": frame})
            else:
                raise


def _is_stream(name: bytes, value: bytes) -> bool:
    return (name.lower(), value.partition(b";")[0].strip()) == _STREAM
