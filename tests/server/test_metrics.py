"""Metrics: what a request leaves in them, read as Prometheus reads it."""

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.engines.scripted import ScriptedEngine
from server.metrics import OTHER, Metrics, ObservedStore
from server.store.base import StoreUnavailable
from server.store.jobs import Claim, Job
from server.store.sqlite.store import SQLiteStore
from strategies.admission import Admission, Ticket
from strategies.budget import Budget, Ledger, Limit, Stage
from strategies.events import EventKind, EventLog
from strategies.request import Request, Service
from tests.server.local import Local
from verifiers.equality import AnswerEquality
from verifiers.types import Candidate, Prompt, Sampling, Usage


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


class Clock:
    """Seconds since the receipt of a request, as a test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_the_events_of_a_request_say() -> None:
    """Of 300 tokens that were generated, the client saw 30: an amplification of 10."""
    admission, clock = Admission(), Clock()
    metrics = Metrics(admission, ["best_of_n"], {})
    events = EventLog(clock)
    request = Request(Service({}, AnswerEquality(), admission), Ledger(Budget()), events)
    request.ledger.usage[Stage.SAMPLE] += Usage(3, 10, 0, 300)
    request.produced = {name: Candidate(name, tokens=30) for name in ("0.0.0", "0.0.1", "0.0.2")}
    clock.now = 2.0
    events.emit(EventKind.FAILED, id="0.0.3", began=0.5, model="m", type="EngineError", error="x")
    for name in ("0.0.0", "0.0.1"):  # judged together, in half a second
        events.emit(EventKind.SCORED, began=1.5, id=name, score=0.5, steps=(), abstained=False)
    clock.now = 4.0
    events.emit(EventKind.SCORED, began=1.75, id="0.0.2", score=0.0, steps=(), abstained=True)
    events.emit(EventKind.FINISHED, choices=["0.0.1"], answer="42", agreement=0.6, stopped_by=None)
    metrics.observe(request, "best_of_n", "grader")
    found = values(metrics)
    assert found["forethought_visible_tokens_total", "best_of_n"] == 30
    assert found["forethought_tokens_total", "completion", "sample", "best_of_n"] == 300
    assert found["forethought_samples_failed_total", "best_of_n"] == 1
    assert found["forethought_verifier_seconds_count", "grader"] == 2
    assert found["forethought_verifier_seconds_sum", "grader"] == 0.5 + 2.25
    assert found["forethought_scores_total", "scored", "grader"] == 2
    assert found["forethought_scores_total", "abstained", "grader"] == 1
    assert found["forethought_agreement_bucket", "0.5", "best_of_n"] == 0
    assert found["forethought_agreement_bucket", "0.625", "best_of_n"] == 1


async def test_the_wait_for_the_first_slot_is_the_queues() -> None:
    admission = Admission(slots=1)
    metrics = Metrics(admission, ["single"], {})
    service = Service({}, AnswerEquality(), admission)
    holder, late = Ticket(), Request(service, Ledger(Budget()), EventLog(lambda: 0.0))
    assert await admission.acquire(holder, 1) == 1
    waiting = asyncio.create_task(admission.acquire(late.ticket, 1))
    await asyncio.sleep(0.06)
    assert values(metrics)["forethought_requests_queued",] == 1
    admission.release(holder)
    await waiting
    metrics.observe(late, "single")
    unhurried = Request(
        Service({}, AnswerEquality(), Admission()), Ledger(Budget()), EventLog(lambda: 0.0)
    )
    unhurried.ticket.admitted, unhurried.ticket.waited = True, 3600.0
    metrics.observe(unhurried, "single")
    found = values(metrics)
    assert found["forethought_queue_seconds_count",] == 1, "work that can wait is not in it"
    assert 0.05 < found["forethought_queue_seconds_sum",] < 1
    assert found["forethought_requests_queued",] == 0


@pytest.mark.slow
def test_a_thousand_made_up_names_make_no_series(server: Local) -> None:
    """Models, strategies, verifiers, routes and methods that no server has."""
    server.post(strategy="self_consistency")
    server.http.get("/v1/none")

    def ask(number: int) -> list[int]:
        name = f"made-up-{number}"
        asked: list[Any] = [
            server.post(model=name),
            server.post(strategy=name),
            server.post(verifier=name, strategy="best_of_n"),
            server.post(f"/v1/{name}/chat/completions"),
            server.http.get(f"/{name}/{name}"),
        ]
        return [each.status_code for each in asked]

    assert ask(0) == [404, 400, 400, 404, 404]
    server.http.get("/v1/none")
    before = set(values(server.state.metrics))
    for number in range(1, 200):
        ask(number)
    after = set(values(server.state.metrics))
    assert after == before
    assert not any("made-up" in label for labels in after for label in labels)


def test_every_http_answer_is_counted_by_its_route(server: Local) -> None:
    metrics = server.state.metrics

    def count(*labels: str) -> float:
        return values(metrics).get(("forethought_http_requests_total", *labels), 0)

    before = count("GET", "/v1/models/{model:path}", "404"), count("GET", "unmatched", "404")
    for _ in range(3):
        server.http.get("/v1/models/none")
        server.http.get("/nowhere")
    server.wait_until(lambda: count("GET", "unmatched", "404") == before[1] + 3)
    assert count("GET", "/v1/models/{model:path}", "404") == before[0] + 3
    assert values(metrics)["forethought_http_requests_running",] == 0


def test_the_process_and_what_it_is_are_told(server: Local) -> None:
    found = server.http.get("/metrics").text
    assert "process_resident_memory_bytes" in found
    assert 'forethought_build_info{python="3.' in found
    assert 'forethought_engine_info{engine="main",model="scripted"} 1.0' in found
    assert "forethought_store_up 1.0" in found


class Flaky(SQLiteStore):
    """Answers, until it is away."""

    away = False

    async def check(self) -> None:
        if self.away:
            raise StoreUnavailable
        await super().check()


async def test_calls_of_the_store_are_timed_and_its_state_is_told() -> None:
    metrics = Metrics(Admission(), [], {})
    real = await Flaky.open(":memory:")
    store = ObservedStore(real, metrics.store)
    await store.records.put("kind", "id", {"a": 1})
    assert await store.records.get("kind", "id") is not None
    await store.streams.append("s", [{"a": 1}])
    assert len(await store.streams.read("s", wait_s=1.0)) == 1
    found = values(metrics)
    assert found["forethought_store_seconds_count", "records.put"] == 1
    assert found["forethought_store_seconds_count", "records.get"] == 1
    assert ("forethought_store_seconds_count", "streams.read") not in found, "it may wait"
    assert found["forethought_store_up",] == 1
    real.away = True
    with pytest.raises(StoreUnavailable):
        await store.check()
    found = values(metrics)
    assert found["forethought_store_up",] == 0
    assert found["forethought_store_errors_total", "check"] == 1
    await store.aclose()


async def test_jobs_are_counted_by_what_becomes_of_them() -> None:
    metrics = Metrics(Admission(), [], {})
    store = ObservedStore(await SQLiteStore.open(":memory:"), metrics.store)
    await store.jobs.enqueue("lines", "batch", [Job(str(n), {}) for n in range(4)])
    assert await store.jobs.enqueue("lines", "batch", [Job("0", {})]) == 0, "it is there already"
    done, failed, returned, lost = await store.jobs.claim("lines", limit=4, lease_s=0.2)

    def running() -> float:
        return values(metrics)["forethought_jobs_running", "lines"]

    assert running() == 4
    await metrics.store.measure(store)
    assert values(metrics)["forethought_jobs_stored", "lines", "running"] == 4
    await store.jobs.finish(done, {"status": 200})
    await store.jobs.finish(done, {"status": 200})
    await store.jobs.give_back(failed, error="it broke", delay_s=60)
    await store.jobs.give_back(returned, delay_s=60)
    assert running() == 1
    await asyncio.sleep(0.25)
    [again] = await store.jobs.claim("lines", limit=4, lease_s=30)
    assert isinstance(again, Claim)
    assert again.job == lost.job
    assert running() == 1, "the lease that was over is nobody's"
    found = values(metrics)
    events = {
        name: found["forethought_jobs_total", name, "lines"]
        for name in ("enqueued", "claimed", "finished", "failed", "handed_back")
    }
    assert events == {
        "enqueued": 4,
        "claimed": 5,
        "finished": 1,
        "failed": 1,
        "handed_back": 1,
    }
    await store.aclose()
