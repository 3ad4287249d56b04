"""What belongs to a request wherever its work goes: the id in logs, the trace that it is part of.

The trace is told as in W3C Trace Context: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE = re.compile(rb"[ -~]{1,512}")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What is known wherever the request's work is done."""

    request_id: str = ""
    headers: Headers = ()
    """`traceparent`, and `tracestate` where there is one, for servers that this one asks."""

    @property
    def trace_id(self) -> str:
        """The trace's id in hexadecimal; empty where there is none."""
        return self.headers[0][1].split(b"-")[1].decode() if self.headers else ""


_OUTSIDE = RequestContext()
_current: ContextVar[RequestContext] = ContextVar("request", default=_OUTSIDE)


def current() -> RequestContext:
    """Return the context of the request that this task works for; an empty one outside."""
    return _current.get()


@contextmanager
def within(context: RequestContext) -> Iterator[None]:
    """Let the block, and the tasks that it starts, work for this request."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def trace_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return what a request's headers say of a trace; nothing where that is not well formed."""
    said = {name: value for name, value in headers if name in (b"traceparent", b"tracestate")}
    parent, state = said.get(b"traceparent", b""), said.get(b"tracestate", b"")
    if _PARENT.fullmatch(parent) is None:
        return ()
    told = ((b"traceparent", parent),)
    return (*told, (b"tracestate", state)) if _STATE.fullmatch(state) else told
