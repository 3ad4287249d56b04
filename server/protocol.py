"""Uvicorn's HTTP protocol with bounds on what comes before the application sees a request.

A head has `limits.head_s` seconds, 256 headers and 64 KiB: a client that opens connections and
sends a byte now and then holds none for long. Refusals are error objects, as all others. What a
client still sends after its answer is read for a few seconds and thrown away: closing at once would
reset the connection, and the client would never see the answer.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import ClassVar

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.errors import error_object
from verifiers.errors import BadRequest

_URL_BYTES = 8 << 10
_HEAD_BYTES = 64 << 10
_HEADERS = 256
_LINGER_S = 5.0


class BadHead(BadRequest):
    """A request whose head cannot be read."""


class URLTooLong(BadHead):
    """The path and query are over 8 KiB."""

    status = 414


class HeadTooLarge(BadHead):
    """The headers are over 256 or 64 KiB."""

    status = 431


class HeadTooSlow(BadHead):
    """The head did not come in time."""

    status = 408


class BoundedProtocol(HttpToolsProtocol):
    """One connection of a client."""

    head_s: ClassVar[float]
    _due: asyncio.TimerHandle | None = None
    """While a head is awaited: when it must have come."""
    _lingering: asyncio.TimerHandle | None = None
    """After an answer to a request that still comes: when the connection is closed."""
    _head_bytes = 0
    _refusal: BadHead | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget all timers."""
        self._head_came()
        self._stop_lingering()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, unless the client was refused: then it is only let finish."""
        if self._refusal is not None:
            return
        if self._resting:  # blank lines may come for ever before a head
            self._await_head()
        super().data_received(data)
        if self._due is not None:  # one header may be endless: the parser tells whole ones only
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES and self._refusal is None:
                self._refuse(HeadTooLarge("the headers have too many bytes"))

    def on_message_begin(self) -> None:
        """Begin a head; of the first one, some time has passed."""
        super().on_message_begin()
        if self._due is None:
            self._await_head()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        super().on_url(url)
        if len(self.url) > _URL_BYTES:
            self._break_off(URLTooLong(f"the URL may have at most {_URL_BYTES} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        super().on_header(name, value)
        if len(self.headers) > _HEADERS:
            self._break_off(HeadTooLarge(f"a request may have at most {_HEADERS} headers"))

    def on_headers_complete(self) -> None:
        """Begin the request."""
        self._head_came()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request; the connection can serve another."""
        super().on_message_complete()
        if self._lingering is not None:
            self._stop_lingering()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """End the answer, which may be early."""
        incomplete = self.cycle.more_body
        super().on_response_complete()
        if incomplete and not self.transport.is_closing():
            self._lingering = self.loop.call_later(_LINGER_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser could not read, or what a bound was broken by."""
        self._refuse(self._refusal or BadHead(msg))

    @property
    def _resting(self) -> bool:
        """Whether the connection is between two requests."""
        waiting = self._due is not None or self._lingering is not None
        return not waiting and self.cycle is not None and self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._due = self.loop.call_later(self.head_s, self._too_slow)

    def _head_came(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _stop_lingering(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _too_slow(self) -> None:
        if self._head_bytes == 0:
            self.transport.close()  # it has asked for nothing
        else:
            self._refuse(HeadTooSlow(f"a request's head has to come in {self.head_s:.0f} s"))

    def _break_off(self, refusal: BadHead) -> None:
        """End the parsing from within one of its callbacks."""
        self._refusal = refusal
        raise refusal

    def _refuse(self, refusal: BadHead) -> None:
        """Answer with an error, read on for a while, and close."""
        self._refusal = refusal
        self._head_came()
        body = to_json(error_object(refusal))
        head = b"content-type: application/json\r\nconnection: close\r\n"
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[refusal.status] + head + length + body)
        with suppress(OSError):  # the client may be gone
            self.transport.write_eof()
        self._lingering = self.loop.call_later(_LINGER_S, self.transport.close)


def bounded(head_s: float) -> type[BoundedProtocol]:
    """Return the protocol whose clients have `head_s` seconds for a request's head."""

    class Protocol(BoundedProtocol):
        pass

    Protocol.head_s = head_s
    return Protocol
