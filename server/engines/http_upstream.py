"""One OpenAI-compatible server: JSON out, JSON or events in, retries, its errors in our tree."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
from pydantic_core import from_json, to_json

from server.engines.http_connection import Connections, pieces, read
from server.telemetry.context import current
from verifiers.errors import (
    BadRequest,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    ForethoughtError,
)

_FIRST_BACKOFF_S = 0.25
_LONGEST_WAIT_S = 10.0
_DONE = b"[DONE]"


class Upstream:
    """Sends JSON and reads JSON, whole or as server-sent events.

    Raises BadRequest where the upstream refuses what was sent, EngineUnavailable where it cannot
    be reached or is overloaded (then nothing was generated), EngineTimeout, else EngineError.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: float = 600.0,
        connect_timeout: float = 5.0,
        connections: int = 256,
        retries: int = 3,
    ) -> None:
        self._url = httpx.URL(base_url)
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise ValueError(f"not an http or https address: {base_url!r}")
        self._root = self._url.path.rstrip("/") or "/v1"
        self._headers = [
            (b"Host", self._url.netloc),
            (b"Content-Type", b"application/json"),
            (b"Accept-Encoding", b"identity"),
        ]
        if api_key is not None:
            self._headers.append((b"Authorization", f"Bearer {api_key}".encode()))
        self._retries = retries
        self._connections = Connections(
            limit=connections, timeout=timeout, connect_timeout=connect_timeout
        )

    async def get(self, path: str) -> Any:
        """Read the JSON at `path` under the API's root, such as `/models`."""
        return await self._whole("GET", self._root + path, b"")

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Post JSON under the API's root and read the whole answer."""
        return await self._whole("POST", self._root + path, to_json(body))

    async def post_beside(self, path: str, body: Mapping[str, Any]) -> Any:
        """Post JSON beside the API's root: `/tokenize` is no part of `/v1`."""
        return await self._whole("POST", self._root.removesuffix("/v1") + path, to_json(body))

    async def stream(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Post JSON and give each server-sent event; closing closes the connection."""
        async with self._answer("POST", self._root + path, to_json(body)) as response:
            rest = b""
            async for data in pieces(response):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if line.startswith(b"data:") and (payload := line[5:].strip()) != _DONE:
                        yield _event(payload)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connections.aclose()

    async def _whole(self, method: str, path: str, content: bytes) -> Any:
        async with self._answer(method, path, content) as response:
            return _json(await read(response))

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, content: bytes
    ) -> AsyncIterator[httpx.Response]:
        async with AsyncExitStack() as stack:
            yield await self._open(stack, method, path, content)

    async def _open(
        self, stack: AsyncExitStack, method: str, path: str, content: bytes
    ) -> httpx.Response:
        """Open an answer with status 2xx, trying again only where nothing was generated yet."""
        for attempt in range(self._retries + 1):
            try:
                return await stack.enter_async_context(self._attempt(method, path, content))
            except EngineUnavailable as error:
                await asyncio.sleep(self._patience(attempt, error))
        raise AssertionError("the last attempt returns or raises")

    def _patience(self, attempt: int, error: EngineUnavailable) -> float:
        """Return the seconds to wait before the next attempt; raise where there is none."""
        backoff: float = _FIRST_BACKOFF_S * 2**attempt * random.uniform(0.5, 1.0)
        wait = max(backoff, error.retry_after) if isinstance(error, _Busy) else backoff
        if attempt == self._retries or wait > _LONGEST_WAIT_S:
            raise error
        return wait

    @asynccontextmanager
    async def _attempt(
        self, method: str, path: str, content: bytes
    ) -> AsyncIterator[httpx.Response]:
        size = str(len(content)).encode()
        headers = [*self._headers, *current().headers, (b"Content-Length", size)]
        request = httpx.Request(
            method,
            self._url.copy_with(raw_path=path.encode()),
            headers=headers,
            stream=httpx.ByteStream(content),
        )
        async with self._connections.exchange(request) as response:
            if not 200 <= response.status_code < 300:
                raise _refusal(response, await read(response))
            yield response


class _Busy(EngineUnavailable):
    """The upstream has no room now; it may say when to come back, in seconds."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def _refusal(response: httpx.Response, body: bytes) -> ForethoughtError:
    """Give the error that a status outside 2xx means, with the upstream's own words."""
    status = response.status_code
    message, param = _said(body)
    message = message or f"the upstream answered with status {status}"
    if status in (400, 404, 413, 422):
        return BadRequest(message, param=param)
    if status in (429, 503):
        return _Busy(message, _seconds(response.headers.get("retry-after", "0")))
    if status in (408, 504):
        return EngineTimeout(message)
    if status in (401, 403):
        return EngineError("the upstream refuses our credentials", code="engine_credentials")
    return EngineError(message)


def _said(body: bytes) -> tuple[str, str | None]:
    """Find message and param in an error body: OpenAI's form, or the bare one of older servers."""
    try:
        data = from_json(body)
    except ValueError:
        return "", None
    error = data.get("error", data) if isinstance(data, dict) else None
    if isinstance(error, str):
        return error, None
    if not isinstance(error, dict):
        return "", None
    message, param = error.get("message"), error.get("param")
    return message if isinstance(message, str) else "", param if isinstance(param, str) else None


def _seconds(retry_after: str) -> float:
    """Read Retry-After in seconds; as an HTTP date it is left to our own backoff."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        return 0.0


def _json(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError as error:
        raise EngineError("the upstream sent something that is not JSON") from error


def _event(payload: bytes) -> Mapping[str, Any]:
    """Read one server-sent event; an error in mid-stream comes as an event of its own."""
    event = _json(payload)
    if not isinstance(event, dict):
        raise EngineError("the upstream sent an event that is not an object")
    if "error" in event:
        raise EngineError(_said(payload)[0] or "the upstream failed in mid-stream")
    return event
