"""What is read when Prometheus asks: the queue, the engines, the process."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from strategies.admission import Admission
from verifiers.types import Engine


def register_admission(registry: CollectorRegistry, admission: Admission) -> None:
    """Show what runs and what waits."""
    gauges = {
        "samples_running": ("Samples that generate now.", lambda: float(admission.running)),
        "samples_queued": ("Samples that wait for a slot.", lambda: float(admission.queued)),
        "samples_slots": ("Samples that may generate at once.", lambda: float(admission.slots)),
        "requests_queued": ("Requests that wait for slots.", lambda: float(admission.waiting)),
    }
    for name, (text, read) in gauges.items():
        Gauge(f"forethought_{name}", text, registry=registry).set_function(read)


def register_process(registry: CollectorRegistry, engines: Mapping[str, Engine]) -> None:
    """Show the process (`process_…`), what it is, and which models it serves."""
    ProcessCollector(registry=registry)
    tasks = Gauge("forethought_tasks", "Tasks of the event loop.", registry=registry)
    tasks.set_function(_tasks)
    build = Gauge("forethought_build_info", "Always 1.", ("version", "python"), registry=registry)
    build.labels(version("forethought"), platform.python_version()).set(1)
    models = Gauge("forethought_engine_info", "Always 1.", ("engine", "model"), registry=registry)
    for name, engine in engines.items():
        models.labels(name, engine.model).set(1)


def _tasks() -> float:
    try:
        return float(len(asyncio.all_tasks()))
    except RuntimeError:  # scraped from outside of the loop, as tests do
        return 0.0


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
