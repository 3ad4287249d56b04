"""The counters of one server, and what adds to them.

What clients choose (models, paths, keys) is no label, or one of a list that the server knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from server.cache.outcome import CacheStatus
from server.metrics.gauges import EngineCollector, register_admission, register_process
from server.metrics.store import StoreMetrics
from strategies.admission import Admission
from strategies.budget import Stage
from strategies.events import Event, EventKind
from strategies.request import Request
from verifiers.types import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
"""The label of every strategy name that is not known: clients cannot make new series."""
UNMATCHED = "unmatched"
"""The route of a path that is none of ours."""

ENDPOINTS = frozenset({"verify", "rerank", "score", "replay"})
"""Labels, in place of a strategy's name, of what runs none."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_QUOTAS = (
    "requests_per_minute",
    "requests_per_day",
    "tokens_per_minute",
    "tokens_per_day",
    "samples_at_once",
)

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_QUEUE_SECONDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_VERIFIER_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_AGREEMENT = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1)


class Metrics:
    """Everything that one server counts."""

    def __init__(
        self, admission: Admission, strategies: Iterable[str], engines: Mapping[str, Engine]
    ) -> None:
        """Count for the strategies of these names; the gauges are read when scraped."""
        self._strategies = frozenset(strategies) | ENDPOINTS
        self._admission = admission
        self._registry = CollectorRegistry()
        self.store = StoreMetrics(self._registry)
        self._count_requests()
        self._count_work()
        self._count_incidents()
        register_admission(self._registry, admission)
        register_process(self._registry, engines)
        self._registry.register(EngineCollector(engines))

    def _count_requests(self) -> None:
        self._http = self._counter("http_requests", "HTTP answers.", "method", "route", "status")
        self._running = Gauge(
            "forethought_http_requests_running",
            "HTTP requests that are being answered.",
            registry=self._registry,
        )
        self._requests = self._counter("requests", "Requests answered.", "strategy", "status")
        self._seconds = self._histogram(
            "request_seconds",
            "From the receipt of a request to the end of its answer.",
            _SECONDS,
            "strategy",
        )
        self._first_token = self._histogram(
            "first_token_seconds",
            "From the receipt of a request to the first piece of its answer.",
            _FIRST_TOKEN_SECONDS,
            "strategy",
        )
        self._queue = self._histogram(
            "queue_seconds", "Until a request's first sample was let in.", _QUEUE_SECONDS
        )

    def _count_work(self) -> None:
        self._tokens = self._counter("tokens", "Tokens.", "strategy", "stage", "kind")
        self._visible = self._counter(
            "visible_tokens", "Generated tokens that clients got to see.", "strategy"
        )
        self._calls = self._counter("calls", "Samples and scorings.", "strategy", "stage")
        self._agreement = self._histogram(
            "agreement", "Share of votes that the answer got.", _AGREEMENT, "strategy"
        )
        self._verifier = self._histogram(
            "verifier_seconds", "Until a verifier had judged.", _VERIFIER_SECONDS, "verifier"
        )
        self._scores = self._counter("scores", "Judged candidates.", "verifier", "outcome")

    def _count_incidents(self) -> None:
        self._stops = self._counter(
            "stops",
            "Strategies stopped before their own end, by what stopped them.",
            "strategy",
            "limit",
        )
        self._failed = self._counter("samples_failed", "Samples lost to engine errors.", "strategy")
        self._errors = self._counter("errors", "Errors told to clients.", "kind")
        self._quota = self._counter("quota_refusals", "Requests over a key's quota.", "limit")
        self._cache = self._counter("cache_lookups", "What the result cache had.", "outcome")
        self._promotions = self._counter(
            "promotions",
            "Promoted checkpoints that were served, or refused, while the server ran.",
            "outcome",
        )
        # A rate needs a value from before the first event.
        for family, values in (
            (self._quota, _QUOTAS),
            (self._cache, get_args(CacheStatus)),
            (self._promotions, ("taken", "refused")),
        ):
            for value in values:
                family.labels(value)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count an HTTP request as running for as long as the block lasts."""
        self._running.inc()
        try:
            yield
        finally:
            self._running.dec()

    def answered(self, method: str, route: str, status: int) -> None:
        """Count an HTTP answer; `route` is the template of the path that matched."""
        self._http.labels(method if method in _METHODS else OTHER, route, str(status)).inc()

    def request(self, strategy: str, status: int, seconds: float) -> None:
        """Count an answered request; for a stream, when it has ended."""
        name = self._known(strategy)
        self._requests.labels(name, str(status)).inc()
        self._seconds.labels(name).observe(seconds)

    def first_token(self, strategy: str, seconds: float) -> None:
        """Count the wait for the first piece of an answer."""
        self._first_token.labels(self._known(strategy)).observe(seconds)

    def observe(self, request: Request, strategy: str, verifier: str | None = None) -> None:
        """Add what a request has cost, once it has ended, by whatever end.

        `verifier` is the configuration's name of the one that judged.
        """
        name = self._known(strategy)
        for stage in Stage:
            usage = request.ledger.usage[stage]
            self._calls.labels(name, stage).inc(usage.calls)
            for kind, count in (
                ("prompt", usage.prompt_tokens),
                ("cached", usage.cached_tokens),
                ("completion", usage.completion_tokens),
            ):
                self._tokens.labels(name, stage, kind).inc(count)
        if request.ledger.stopped_by is not None:
            self._stops.labels(name, request.ledger.stopped_by).inc()
        if request.ticket.admitted and request.service.admission is self._admission:
            # Work that can wait has an admission of its own, and waits by design.
            self._queue.observe(request.ticket.waited)
        self._tell(request, name)
        if verifier is not None:
            self._judged(request.events.events, verifier)

    def error(self, kind: str) -> None:
        """Count an error by its class, such as `EngineTimeout`."""
        self._errors.labels(kind).inc()

    def quota_refused(self, limit: str) -> None:
        """Count a refusal by what was used up, such as `tokens_per_day`; never by whose."""
        self._quota.labels(limit).inc()

    def cache(self, outcome: CacheStatus) -> None:
        """Count what the result cache had for a request that it may answer."""
        self._cache.labels(outcome).inc()

    def promotion(self, outcome: str) -> None:
        """Count what became of a promotion: `taken` or `refused`."""
        self._promotions.labels(outcome).inc()

    def render(self) -> bytes:
        """Write everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _tell(self, request: Request, name: str) -> None:
        """Add what the events say of the answer."""
        for event in request.events.events:
            if event.kind is EventKind.FAILED:
                self._failed.labels(name).inc()
            elif event.kind is EventKind.FINISHED:
                made = (request.produced.get(choice) for choice in event.data["choices"])
                self._visible.labels(name).inc(sum(each.tokens for each in made if each))
                if (agreement := event.data["agreement"]) is not None:
                    self._agreement.labels(name).observe(agreement)

    def _judged(self, events: Iterable[Event], verifier: str) -> None:
        """Add how long each round of judging took: candidates that began together are one."""
        scored = [event for event in events if event.kind is EventKind.SCORED]
        for event in scored:
            outcome = "abstained" if event.data["abstained"] else "scored"
            self._scores.labels(verifier, outcome).inc()
        rounds = {event.began: event.seconds for event in scored if event.began is not None}
        for began, ended in rounds.items():
            self._verifier.labels(verifier).observe(ended - began)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"forethought_{name}", text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"forethought_{name}", text, labels, registry=self._registry, buckets=buckets
        )

    def _known(self, strategy: str) -> str:
        return strategy if strategy in self._strategies else OTHER
