"""Metrics: what a request leaves in them, read as Prometheus reads it."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from server.engines.scripted import ScriptedEngine
from server.metrics import OTHER, Metrics
from strategies.admission import Admission, Ticket
from strategies.budget import Budget, Ledger, Limit, Stage
from strategies.events import EventLog
from strategies.request import Request, Service
from verifiers.equality import AnswerEquality
from verifiers.types import Prompt, Sampling, Usage


def values(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Map (sample name, label values in the order of their names) to the value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_costs_of_a_request() -> None:
    admission = Admission()
    metrics = Metrics(admission, ["best_of_n"], {})
    ledger = Ledger(Budget())
    ledger.usage[Stage.SAMPLE] += Usage(8, 10, 7, 300)
    ledger.usage[Stage.VERIFY] += Usage(8, 900, 100, 8)
    ledger.stopped_by = Limit.TOKENS
    service = Service({}, AnswerEquality(), admission)
    request = Request(service, ledger, EventLog(lambda: 0.0))
    metrics.observe(request, "best_of_n")
    metrics.observe(request, "best_of_n")
    metrics.request("best_of_n", 200, 1.5)
    metrics.first_token("best_of_n", 0.2)
    metrics.error("EngineTimeout")
    found = values(metrics)
    assert found["forethought_tokens_total", "completion", "sample", "best_of_n"] == 600
    assert found["forethought_tokens_total", "cached", "verify", "best_of_n"] == 200
    assert found["forethought_calls_total", "verify", "best_of_n"] == 16
    assert found["forethought_stops_total", "tokens", "best_of_n"] == 2
    assert found["forethought_requests_total", "200", "best_of_n"] == 1
    assert found["forethought_request_seconds_sum", "best_of_n"] == 1.5
    assert found["forethought_first_token_seconds_bucket", "0.25", "best_of_n"] == 1
    assert found["forethought_first_token_seconds_bucket", "0.1", "best_of_n"] == 0
    assert found["forethought_errors_total", "EngineTimeout"] == 1


def test_clients_cannot_make_series() -> None:
    metrics = Metrics(Admission(), ["single"], {})
    before = None
    for number in range(50):
        metrics.request(f"made-up-{number}", 404, 0.0)
        metrics.first_token(f"made-up-{number}", 0.0)
        before = before or len(values(metrics))
    assert len(values(metrics)) == before
    assert values(metrics)["forethought_requests_total", "404", OTHER] == 50


async def test_gauges_follow_admission() -> None:
    admission = Admission(slots=4)
    metrics = Metrics(admission, [], {})
    ticket = Ticket()
    assert await admission.acquire(ticket, 4) == 4
    waiting = asyncio.create_task(admission.acquire(Ticket(), 3))
    await asyncio.sleep(0)
    found = values(metrics)
    assert found["forethought_samples_running",] == 4
    assert found["forethought_samples_queued",] == 3
    assert found["forethought_samples_slots",] == 4
    admission.release(ticket, 4)
    assert await waiting == 3
    assert values(metrics)["forethought_samples_running",] == 3


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(Admission(), ["single"], {}), Metrics(Admission(), ["single"], {})
    one.request("single", 200, 1.0)
    assert ("forethought_requests_total", "200", "single") not in values(other)


async def test_engines_numbers_are_passed_on() -> None:
    engine, other = ScriptedEngine(), ScriptedEngine()
    metrics = Metrics(Admission(), [], {"main": engine, "small": other})
    async for _ in engine.generate(Prompt(({"role": "user", "content": "2 + 3"},)), Sampling(8)):
        assert values(metrics)["forethought_engine_running_requests", "main"] <= 1
    found = values(metrics)
    assert found["forethought_engine_generated_tokens_total", "main"] == engine.log["tokens"] > 0
    assert found["forethought_engine_generated_tokens_total", "small"] == 0
