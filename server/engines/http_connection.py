"""A pool of connections to one upstream, made of httpx transports that hold one connection each.

httpx's own pool looks through all its connections whenever a request starts or ends: at 32 of them
that costs more than everything else in a call. Ours takes the transport that was used last.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import httpx

from verifiers.errors import EngineError, EngineTimeout, EngineUnavailable

_KEEPALIVE_S = 3.0
"""Below the 5 s after which uvicorn, and so vLLM, closes an idle connection under our feet."""

_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEPALIVE_S)


class Connections:
    """At most `limit` exchanges at a time, each on a connection of its own that is used again."""

    def __init__(
        self, *, limit: int = 256, timeout: float = 600.0, connect_timeout: float = 5.0
    ) -> None:
        """Time-outs are in seconds: between two pieces of an answer, and for connecting."""
        self._free = asyncio.Semaphore(limit)
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._tls = ssl.create_default_context()
        self._timeouts = {"connect": connect_timeout, "read": timeout, "write": timeout}

    @asynccontextmanager
    async def exchange(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        """Send a request; the answer's body is read inside the block, whose end closes it.

        Raises:
            EngineUnavailable: no connection can be had, so nothing was sent.
            EngineTimeout: nothing came for too long.
            EngineError: the exchange broke.
        """
        request.extensions["timeout"] = self._timeouts
        async with self._free:
            transport = self._idle.pop() if self._idle else self._open()
            usable = False
            try:
                response = await transport.handle_async_request(request)
                try:
                    yield response
                finally:
                    await response.aclose()
                    usable = True
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise EngineUnavailable(f"the upstream cannot be reached: {error}") from error
            except httpx.TimeoutException as error:
                raise EngineTimeout("the upstream did not answer in time") from error
            except httpx.TransportError as error:
                raise EngineError(f"the upstream broke the connection off: {error}") from error
            finally:
                if usable:
                    self._idle.append(transport)
                else:
                    self._discard(transport)

    async def aclose(self) -> None:
        """Close the connections that rest."""
        while self._idle:
            self._discard(self._idle.pop())
        if self._closing:
            await asyncio.wait(self._closing)

    def _discard(self, transport: httpx.AsyncHTTPTransport) -> None:
        """Close a transport in a task of its own, which nobody cancels.

        httpcore shields its own clean-up from anyio's cancellation, not from asyncio's: one that is
        cancelled while it closes holds its only connection for ever.
        """
        task = asyncio.create_task(transport.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _open(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._tls, limits=_ONE)


async def pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Give the body as it comes, undecoded."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for piece in response.stream:
        yield piece


async def read(response: httpx.Response) -> bytes:
    """Read the whole body, undecoded."""
    return b"".join([piece async for piece in pieces(response)])
