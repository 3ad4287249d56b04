"""What follows requests through the server, as far as the rest of it knows.

`Untraced` is used unless tracing is switched on: it only passes a client's trace on.
`server.telemetry.otlp` makes spans, and is imported only where they are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Scope

from server.telemetry.context import RequestContext, trace_headers, within
from strategies.request import Request
from verifiers.types import Sampling


@dataclass(frozen=True, slots=True)
class Run:
    """Work that a span is made of: a strategy's, or a verifier's."""

    id: str
    """Of the response and of the trace."""
    name: str
    """The strategy's, or what was asked of a verifier."""
    model: str
    verifier: str | None
    request: Request
    sampling: Sampling | None = None
    """None where nothing was sampled."""
    n: int = 1


class Tracing(Protocol):
    """Follows requests and runs."""

    def request(self, scope: Scope) -> AbstractContextManager[None]:
        """Follow an HTTP request; its `request_id` stands in the scope."""

    def run(self, run: Run) -> AbstractContextManager[None]:
        """Follow a run; its events are read when the block ends."""

    async def aclose(self) -> None:
        """Send what waits, within a bounded time."""


class Untraced:
    """Makes no spans."""

    @contextmanager
    def request(self, scope: Scope) -> Iterator[None]:
        """Let whom the request asks know of the client's trace."""
        with within(RequestContext(scope["request_id"], trace_headers(scope["headers"]))):
            yield

    def run(self, run: Run) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing."""
        return nullcontext()

    async def aclose(self) -> None:
        """Nothing waits."""
