"""Spans for an OpenTelemetry collector, by OTLP over HTTP.

    POST /v1/chat/completions                 SERVER, one for every HTTP request
    └── invoke_workflow best_of_n             one for every run of a strategy, or of a verifier
        ├── chat qwen2.5                      CLIENT, one for every sample, of verifiers too
        └── score logprob                     one for every score

Names and attributes are those of the semantic conventions for generative AI where these have some,
else `forethought.…`. What was said, by client or model, is in none of them. Samples and scores are
read from the events of a run when it ends; a run that is not sampled costs next to nothing.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.requests import HTTPConnection
from starlette.types import Scope

from server.identity import identity_of
from server.telemetry.base import Run
from server.telemetry.context import Headers, RequestContext, current, trace_headers, within
from server.telemetry.spans import RunSpan, workflow_attributes

_WAITING_SPANS = 16_384
"""A tree search ends with thousands of spans at once; what does not fit is dropped."""
_NANOSECONDS = 1e9
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Machines ask for these all day."""
_W3C = TraceContextTextMapPropagator()


class Telemetry:
    """Makes spans, and sends them from a thread of its own: no request waits for a collector."""

    def __init__(self, endpoint: str | None, flush_s: float) -> None:
        """Send to the collector at `endpoint`; None: to where OTEL_EXPORTER_OTLP_… says.

        `flush_s` bounds the end.
        """
        address = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/traces"
        self._flush_s = flush_s
        self._exporter = OTLPSpanExporter(endpoint=address)
        name = os.environ.get("OTEL_SERVICE_NAME", "forethought")
        self._provider = TracerProvider(
            resource=Resource.create(
                {"service.name": name, "service.version": version("forethought")}
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, max_queue_size=_WAITING_SPANS)
        )
        self._tracer = self._provider.get_tracer("forethought", version("forethought"))

    @contextmanager
    def request(self, scope: Scope) -> Iterator[None]:
        """Follow an HTTP request, as a part of the trace that its headers name; no probes."""
        if scope["path"] in _PROBES:
            yield
            return
        carrier = {name.decode(): value.decode() for name, value in trace_headers(scope["headers"])}
        span = self._tracer.start_span(
            scope["method"],
            _W3C.extract(carrier),
            SpanKind.SERVER,
            {
                "http.request.method": scope["method"],
                "url.scheme": scope["scheme"],
                "forethought.request_id": scope["request_id"],
            },
        )
        with _active(span), within(RequestContext(scope["request_id"], _outgoing(span))):
            try:
                yield
            finally:
                _tell_answer(span, scope)
                span.end()

    @contextmanager
    def run(self, run: Run) -> Iterator[None]:
        """Follow a run, and make spans of its events when it ends."""
        received = time.time_ns() - int(run.request.ledger.seconds * _NANOSECONDS)
        span = self._tracer.start_span(
            f"invoke_workflow {run.name}", attributes=workflow_attributes(run)
        )
        context = RequestContext(current().request_id, _outgoing(span))
        with _active(span), within(context):
            try:
                yield
            except BaseException as error:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__name__)
                raise
            finally:
                if span.is_recording():
                    RunSpan(self._tracer, span, run, received).finish()
                span.end()

    async def aclose(self) -> None:
        """Send what waits, for at most `flush_s`; a collector that is away holds nobody up."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="telemetry-end", daemon=True).start()
        try:
            async with asyncio.timeout(self._flush_s):
                await done.wait()
        except TimeoutError:
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # ends the waiting between its attempts


def _outgoing(span: trace.Span) -> Headers:
    """Return the headers that make the work of whom we ask a part of the span."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span))
    return tuple((name.encode(), value.encode()) for name, value in carrier.items())


@contextmanager
def _active(span: trace.Span) -> Iterator[None]:
    """Let spans that start in the block belong to this one; what it raises is told elsewhere."""
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        yield


def _tell_answer(span: trace.Span, scope: Scope) -> None:
    status, route = scope.get("status", 500), scope.get("route")
    span.set_attribute("http.response.status_code", status)
    if route is not None:
        span.update_name(f"{scope['method']} {route.path}")
        span.set_attribute("http.route", route.path)
    if owner := identity_of(HTTPConnection(scope)).owner:
        span.set_attribute("user.id", owner)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)
