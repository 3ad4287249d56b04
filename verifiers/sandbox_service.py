"""Programs run by the service `forethought sandbox`, on another machine or in another container."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import httpx
from pydantic import TypeAdapter, ValidationError

from verifiers.errors import VerifierError, VerifierUnavailable
from verifiers.sandbox import Outcome, Program
from verifiers.sandbox_command import Limits

_CONNECT_SECONDS = 5.0
_QUEUE_SECONDS = 60.0
"""How long a program may wait there for its turn."""
_OUTCOME = TypeAdapter(Outcome)


class RemoteSandbox:
    """Asks a service; hanging up, as a cancelled request does, kills the program there."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.AsyncClient(base_url=self._url, trust_env=False)

    async def run(self, program: Program, limits: Limits) -> Outcome:
        """Run a program over there.

        Raises:
            VerifierUnavailable: the service is away, or full.
            VerifierError: it refuses the program, or answers with something else.
        """
        body = {"source": program.source, "stdin": program.stdin, "limits": asdict(limits)}
        patience = httpx.Timeout(limits.seconds + _QUEUE_SECONDS, connect=_CONNECT_SECONDS)
        response = await self._answer("POST", "/run", patience, json=body)
        try:
            return _OUTCOME.validate_json(response.content)
        except ValidationError as error:
            raise VerifierError("the sandbox service sent something that is no outcome") from error

    async def unavailable(self) -> str | None:
        """Ask the service whether it lives."""
        try:
            await self._answer("GET", "/healthz", httpx.Timeout(_CONNECT_SECONDS))
        except VerifierError as error:
            return error.message
        return None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _answer(
        self, method: str, path: str, patience: httpx.Timeout, **content: Any
    ) -> httpx.Response:
        try:
            response = await self._client.request(method, path, timeout=patience, **content)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise VerifierUnavailable(f"the sandbox service is away: {reason}") from error
        if response.status_code in (429, 503):
            raise VerifierUnavailable("the sandbox service is full")
        if not response.is_success:
            raise VerifierError(f"the sandbox service answers {response.status_code}")
        return response
