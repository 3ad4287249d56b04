"""A collector of spans: OTLP over HTTP, decoded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.threaded import threaded

OK, ERROR = 1, 2


@dataclass(frozen=True)
class Span:
    """A span as it came in."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    failed: bool
    attributes: Mapping[str, Any]
    events: tuple[str, ...]


@dataclass
class Collector:
    """What was sent to it."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    resources: list[Mapping[str, Any]] = field(default_factory=list)
    raw: bytes = b""
    """Everything, undecoded."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def take(self, http: Request) -> Response:
        body = await http.body()
        assert http.headers["content-type"] == "application/x-protobuf"
        sent = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self.raw += body
            for part in sent.resource_spans:
                self.resources.append(_attributes(part.resource.attributes))
                for scope in part.scope_spans:
                    self.spans += map(_span, scope.spans)
        return Response(
            ExportTraceServiceResponse().SerializeToString(),
            media_type="application/x-protobuf",
        )

    def wait_for(self, enough: Callable[[list[Span]], bool], seconds: float = 15.0) -> list[Span]:
        """Wait until what has come is enough."""
        end = time.monotonic() + seconds
        while not enough(self.spans):
            assert time.monotonic() < end, [span.name for span in self.spans]
            time.sleep(0.02)
        return list(self.spans)

    def named(self, start: str) -> list[Span]:
        return [span for span in self.spans if span.name.startswith(start)]


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    app = Starlette(routes=[Route("/v1/traces", collector.take, methods=["POST"])])
    with threaded(app) as port:
        collector.endpoint = f"http://127.0.0.1:{port}"
        yield collector


def _span(span: ProtoSpan) -> Span:
    return Span(
        span.name,
        ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == ERROR,
        _attributes(span.attributes),
        tuple(event.name for event in span.events),
    )


def _attributes(entries: Any) -> dict[str, Any]:
    return {entry.key: _value(entry.value) for entry in entries}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)
