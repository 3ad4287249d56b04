"""A server that scores, asked over HTTP: what it sends is believed only as far as it is checked."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Mapping
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import to_json

from verifiers.errors import VerifierError, VerifierUnavailable

CONNECTIONS = 64
"""Exchanges at the same time; more wait for their turn."""
_FIRST_BACKOFF_S = 0.1
_KEEPALIVE_S = 3.0
"""Below the 5 s after which uvicorn closes an idle connection under our feet."""

Answer = TypeVar("Answer", bound=BaseModel)


class Refused(VerifierError):
    """The server refuses what was sent, such as a text longer than its model takes."""


class ScoringServer:
    """Posts JSON to one server and reads JSON of a known shape.

    Scoring twice changes nothing, so a connection that breaks is tried again. The body of an
    answer is limited, redirects are not followed, and nothing is decompressed.
    """

    def __init__(
        self,
        *,
        api_key: SecretStr | None = None,
        timeout_s: float = 30.0,
        retries: int = 2,
        answer_bytes: int = 1 << 20,
    ) -> None:
        """`timeout_s` is for a whole question, retries included."""
        headers = {"accept-encoding": "identity", "content-type": "application/json"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key.get_secret_value()}"
        self._timeout_s = timeout_s
        self._retries = retries
        self._answer_bytes = answer_bytes
        self._turn = asyncio.Semaphore(CONNECTIONS)
        self._client = httpx.AsyncClient(
            headers=headers,
            # `CONNECTIONS` holds by the semaphore; a connection that httpx fails to take back from
            # a cancelled question must not be missed for ever.
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEPALIVE_S),
            timeout=timeout_s,
            verify=ssl.create_default_context(),
            trust_env=False,
            follow_redirects=False,
        )

    async def ask(self, url: str, body: Mapping[str, Any], shape: type[Answer]) -> Answer:
        """Post a question and read its answer.

        Raises:
            VerifierUnavailable: it cannot be reached, is overloaded, or takes too long.
            Refused: it does not take what was sent.
            VerifierError: it answers something else than `shape`.
        """
        content = to_json(body)
        try:
            async with asyncio.timeout(self._timeout_s), self._turn:
                answer = await self._persist(url, content)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise VerifierUnavailable(
                f"the scoring server did not answer within {self._timeout_s:g} s"
            ) from error
        try:
            return shape.model_validate_json(answer, strict=True)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, fault["loc"])) or "body"
            raise VerifierError(f"the scoring server's answer: {place}: {fault['msg']}") from error

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _persist(self, url: str, content: bytes) -> bytes:
        """Try again where the connection could not be had, or broke."""
        for attempt in range(self._retries + 1):
            try:
                return await self._exchange(url, content)
            except httpx.TimeoutException:
                raise
            except httpx.TransportError as error:
                if attempt == self._retries:
                    raise VerifierUnavailable("the scoring server cannot be reached") from error
                await asyncio.sleep(_FIRST_BACKOFF_S * 2**attempt * random.uniform(0.5, 1.0))
        raise AssertionError("the last attempt returns or raises")

    async def _exchange(self, url: str, content: bytes) -> bytes:
        async with self._client.stream("POST", url, content=content) as response:
            _check_status(response.status_code)
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > self._answer_bytes:
                    raise VerifierError(f"the answer has more than {self._answer_bytes} bytes")
            return bytes(body)


def _check_status(status: int) -> None:
    """Raise what a status outside 2xx means. What the body says is the operator's to look up."""
    if 200 <= status < 300:
        return
    if status in (400, 413, 422):
        raise Refused(f"the scoring server refuses the question: status {status}")
    if status in (408, 429, 502, 503, 504):
        raise VerifierUnavailable(f"the scoring server is not ready: status {status}")
    if status in (401, 403):
        raise VerifierError("the scoring server refuses our key")
    if 300 <= status < 400:
        raise VerifierError("the scoring server sends us elsewhere: redirects are not followed")
    raise VerifierError(f"the scoring server failed: status {status}")
