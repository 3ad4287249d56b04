"""What Prometheus scrapes at `/metrics`: a registry per server, labels with bounded values only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from strategies.admission import Admission
from strategies.budget import Stage
from strategies.request import Request
from verifiers.types import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
"""The label of every strategy name that is not known: clients cannot make new series."""

ENDPOINTS = frozenset({"verify", "rerank", "score", "replay"})
"""Labels, in place of a strategy's name, of what runs none."""

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server."""

    def __init__(
        self, admission: Admission, strategies: Iterable[str], engines: Mapping[str, Engine]
    ) -> None:
        """Count for the strategies of these names; the gauges are read when scraped."""
        self._strategies = frozenset(strategies) | ENDPOINTS
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "forethought_requests",
            "Requests answered.",
            ("strategy", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "forethought_request_seconds",
            "From the receipt of a request to the end of its answer.",
            ("strategy",),
            registry=registry,
            buckets=_SECONDS,
        )
        self._first_token = Histogram(
            "forethought_first_token_seconds",
            "From the receipt of a request to the first piece of its answer.",
            ("strategy",),
            registry=registry,
            buckets=_FIRST_TOKEN_SECONDS,
        )
        self._tokens = Counter(
            "forethought_tokens", "Tokens.", ("strategy", "stage", "kind"), registry=registry
        )
        self._calls = Counter(
            "forethought_calls", "Samples and scorings.", ("strategy", "stage"), registry=registry
        )
        self._stops = Counter(
            "forethought_stops",
            "Strategies stopped before their own end, by what stopped them.",
            ("strategy", "limit"),
            registry=registry,
        )
        self._errors = Counter(
            "forethought_errors", "Errors told to clients.", ("kind",), registry=registry
        )
        self._promotions = Counter(
            "forethought_promotions",
            "Promoted checkpoints that were served, or refused, while the server ran.",
            ("outcome",),
            registry=registry,
        )
        self._admission_gauges(admission)
        registry.register(EngineCollector(engines))

    def _admission_gauges(self, admission: Admission) -> None:
        gauges = {
            "running": ("Samples that generate now.", lambda: float(admission.running)),
            "queued": ("Samples that wait for a slot.", lambda: float(admission.queued)),
            "slots": ("Samples that may generate at once.", lambda: float(admission.slots)),
        }
        for name, (text, read) in gauges.items():
            Gauge(f"forethought_samples_{name}", text, registry=self._registry).set_function(read)

    def request(self, strategy: str, status: int, seconds: float) -> None:
        """Count an answered request; for a stream, when it has ended."""
        name = self._known(strategy)
        self._requests.labels(name, str(status)).inc()
        self._seconds.labels(name).observe(seconds)

    def first_token(self, strategy: str, seconds: float) -> None:
        """Count the wait for the first piece of an answer."""
        self._first_token.labels(self._known(strategy)).observe(seconds)

    def observe(self, request: Request, strategy: str) -> None:
        """Add what a request has cost, once it has ended, by whatever end."""
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

    def error(self, kind: str) -> None:
        """Count an error by its class, such as `EngineTimeout`."""
        self._errors.labels(kind).inc()

    def promotion(self, outcome: str) -> None:
        """Count what became of a promotion: `taken` or `refused`."""
        self._promotions.labels(outcome).inc()

    def render(self) -> bytes:
        """Write everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _known(self, strategy: str) -> str:
        return strategy if strategy in self._strategies else OTHER


class EngineCollector(Collector):
    """Passes the engines' own numbers on, as `forethought_engine_…` with the engine's name."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        """Read every engine."""
        numbers = {name: engine.statistics for name, engine in self._engines.items()}
        for statistic in sorted(set().union(*numbers.values())):
            family = CounterMetricFamily if statistic.endswith("_total") else GaugeMetricFamily
            words = statistic.removesuffix("_total").replace("_", " ")
            metric = family(f"forethought_engine_{statistic}", f"{words}.", labels=("engine",))
            for name, known in numbers.items():
                if statistic in known:
                    metric.add_metric((name,), known[statistic])
            yield metric
