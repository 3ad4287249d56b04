"""Spans as a collector gets them: the tree, what is said in it, and what it costs."""

import socket
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import httpx
import pytest
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.engines.http_upstream import Upstream
from server.engines.scripted import ScriptedEngine
from server.telemetry.context import RequestContext, trace_headers, within
from tests.server.collector import Collector, Span, collecting
from tests.server.local import Local, local
from tests.server.serving import serving
from tests.stub_upstream import Stub
from tests.threaded import threaded
from verifiers.errors import EngineError
from verifiers.types import Prompt

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, CALLER = PARENT.split("-")[1:3]
SECRET = "xylophone"
ASKED = [{"role": "user", "content": f"What is 6 times 7, said the {SECRET}?"}]


@pytest.fixture(autouse=True)
def sent_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)


@contextmanager
def traced(engine: ScriptedEngine | None = None) -> Iterator[tuple[Local, Collector]]:
    with (
        collecting() as collector,
        local(engine, telemetry={"otlp_endpoint": collector.endpoint, "flush_s": 5}) as server,
    ):
        yield server, collector


def whole(spans: list[Span]) -> bool:
    """Whether the span of an HTTP request is there: it is the last of its trace."""
    return any(span.kind == "SERVER" for span in spans)


def test_the_tree_of_a_request() -> None:
    with traced(ScriptedEngine(delay=0.002)) as (server, collector):
        before = time.time_ns()
        reply = server.post(
            messages=ASKED,
            strategy={"type": "best_of_n", "n": 3},
            verifier="logprob",
            seed=7,
            temperature=0.5,
        ).json()
        collector.wait_for(whole)
        [request], [run] = collector.named("POST"), collector.named("invoke_workflow")
        samples, scores = collector.named("chat"), collector.named("score")
    assert request.name == "POST /v1/chat/completions"
    assert request.parent == ""
    assert request.attributes["http.route"] == "/v1/chat/completions"
    assert request.attributes["http.response.status_code"] == 200
    assert (run.name, run.kind, run.parent) == ("invoke_workflow best_of_n", "INTERNAL", request.id)
    assert len(samples) == len(scores) == 3
    assert {span.parent for span in samples + scores} == {run.id}
    assert {span.trace for span in collector.spans} == {request.trace}
    assert not any(span.failed for span in collector.spans)

    spent = reply["scaling"]["usage"]["sample"]["completion_tokens"]
    assert run.attributes["gen_ai.usage.output_tokens"] == spent
    assert sum(span.attributes["gen_ai.usage.output_tokens"] for span in samples) == spent
    assert run.attributes["gen_ai.response.id"] == reply["id"]
    assert run.attributes["gen_ai.workflow.name"] == "best_of_n"
    assert run.attributes["gen_ai.request.seed"] == 7
    assert run.attributes["gen_ai.request.temperature"] == 0.5
    assert run.attributes["forethought.sample.calls"] == 3
    assert {span.kind for span in samples} == {"CLIENT"}
    assert {span.name for span in samples} == {"chat scripted"}
    assert {span.attributes["gen_ai.operation.name"] for span in samples} == {"chat"}
    assert {tuple(s.attributes["gen_ai.response.finish_reasons"]) for s in samples} == {("stop",)}
    assert {span.name for span in scores} == {"score logprob"}
    best = max(span.attributes["gen_ai.evaluation.score.value"] for span in scores)
    assert best == pytest.approx(reply["scaling"]["scores"][0])
    ids = [span.attributes["forethought.candidate.id"] for span in samples]
    assert sorted(ids) == [span.attributes["forethought.candidate.id"] for span in scores]

    assert before <= request.start <= run.start <= run.end <= request.end <= time.time_ns()
    for span in samples:
        assert run.start - 2_000_000 <= span.start < span.end <= run.end + 2_000_000
    longest = max(span.end - span.start for span in samples) / 1e9
    assert longest > 0.002 * 3, "the time that tokens took"
    assert all(score.start >= min(s.start for s in samples) for score in scores)
    assert collector.resources[0]["service.name"] == "forethought"


def test_nothing_that_was_said_is_in_it() -> None:
    with traced() as (server, collector):
        reply = server.post(messages=ASKED, strategy="self_consistency").json()
        said = reply["choices"][0]["message"]["content"]
        collector.wait_for(whole)
        server.post(messages=ASKED, strategy=f"{SECRET}")
        collector.wait_for(lambda spans: sum(span.kind == "SERVER" for span in spans) == 2)
        assert server.http.get(f"/v1/{SECRET}?{SECRET}").status_code == 404
        collector.wait_for(lambda spans: sum(span.kind == "SERVER" for span in spans) == 3)
    assert said
    for text in (SECRET, said):
        assert text.encode() not in collector.raw
    [voted] = collector.named("invoke_workflow")
    assert voted.events == ("voted",)
    assert voted.attributes["forethought.agreement"] == reply["scaling"]["agreement"]


def test_a_clients_trace_goes_on() -> None:
    with traced() as (server, collector):
        server.http.post(
            "/v1/chat/completions", json={"messages": ASKED}, headers={"traceparent": PARENT}
        )
        collector.wait_for(whole)
        unsampled = {"traceparent": f"{PARENT[:-2]}00"}
        server.http.post("/v1/chat/completions", json={"messages": ASKED}, headers=unsampled)
        for path in ("/healthz", "/metrics", "/v1/models"):
            server.http.get(path).raise_for_status()
        collector.wait_for(lambda spans: any(span.name == "GET /v1/models" for span in spans))
    assert not collector.named("GET /healthz") + collector.named("GET /metrics")
    assert {span.trace for span in collector.spans if span.name != "GET /v1/models"} == {TRACE}
    [request] = collector.named("POST")
    assert request.parent == CALLER


def test_a_failed_sample_and_a_refused_request() -> None:
    def fail(prompt: Prompt, index: int) -> Exception | None:
        return EngineError(f"it said {SECRET}") if index == 1 else None

    with traced(ScriptedEngine(fail=fail)) as (server, collector):
        assert server.post(strategy={"type": "self_consistency", "n": 3}).status_code == 200
        assert server.post(model="no such").status_code == 404
        collector.wait_for(lambda spans: sum(span.kind == "SERVER" for span in spans) == 2)
        samples = collector.named("chat")
    assert [span.attributes.get("error.type") for span in samples if span.failed] == ["EngineError"]
    assert sum(not span.failed for span in samples) == 2
    assert SECRET.encode() not in collector.raw
    statuses = [s.attributes["http.response.status_code"] for s in collector.named("POST")]
    assert statuses == [200, 404]
    assert not any(span.failed for span in collector.named("POST"))


def test_a_client_that_hangs_up_ends_its_spans() -> None:
    with traced(ScriptedEngine(delay=0.05)) as (server, collector):
        body = {"messages": ASKED, "stream": True}
        with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
            next(response.iter_lines())
        collector.wait_for(whole)
        [run], [sample] = collector.named("invoke_workflow"), collector.named("chat")
        [request] = collector.named("POST")
    assert run.failed
    assert run.attributes["error.type"] == "CancelledError"
    assert sample.attributes["gen_ai.response.finish_reasons"] == ["unfinished"]
    assert request.attributes["http.response.status_code"] == 499


def test_judging_is_followed_too() -> None:
    with traced() as (server, collector):
        replies = [{"content": "42"}, {"content": "43"}]
        verifier = {"name": "exact", "reference": "42"}
        server.http.post(
            "/v1/verify", json={"messages": ASKED, "candidates": replies, "verifier": verifier}
        ).raise_for_status()
        collector.wait_for(whole)
        [run] = collector.named("invoke_workflow")
    assert run.name == "invoke_workflow verify"
    scores = [s.attributes["gen_ai.evaluation.score.value"] for s in collector.named("score exact")]
    assert sorted(scores) == [0.0, 1.0]


@pytest.mark.parametrize("hears", [False, True], ids=["refuses", "never answers"])
def test_a_collector_that_is_away_costs_nothing(hears: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if not hears:
            listener.close()
        settings = {"otlp_endpoint": endpoint, "flush_s": 0.5}
        with local(telemetry=settings) as server:
            for _ in range(20):
                began = time.monotonic()
                assert server.post(strategy="self_consistency").status_code == 200
                assert time.monotonic() - began < 1
            ending = time.monotonic()
        assert time.monotonic() - ending < 3


@contextmanager
def upstream() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An upstream that remembers the headers that it was asked with."""
    stub, seen = Stub(), list[dict[str, str]]()
    app: ASGIApp = stub.app()

    async def remembering(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.append(dict(HTTPRequest(scope).headers))
        await app(scope, receive, send)

    with threaded(remembering) as port:
        yield f"http://127.0.0.1:{port}/v1", seen


async def test_upstreams_are_told_of_the_trace() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = JSONResponse(dict(HTTPRequest(scope).headers))
        await response(scope, receive, send)

    told = trace_headers([(b"traceparent", PARENT.encode()), (b"tracestate", b"vendor=1")])
    with threaded(echo) as port:
        async with aclosing(Upstream(f"http://127.0.0.1:{port}/v1")) as asked:
            assert "traceparent" not in await asked.get("/models")
            with within(RequestContext("request", told)):
                seen = await asked.get("/models")
    assert (seen["traceparent"], seen["tracestate"]) == (PARENT, "vendor=1")
    assert RequestContext("request", told).trace_id == TRACE


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        PARENT.upper(),
        f"{PARENT}-more",
        PARENT.replace("00-", "ff-", 1),
        PARENT.replace(TRACE, "0" * 32),
        PARENT.replace(CALLER, "0" * 16),
        f"{PARENT}\r\nx-evil: 1",
    ],
)
def test_a_trace_that_is_not_well_formed_ends_here(parent: str) -> None:
    assert trace_headers([(b"traceparent", parent.encode()), (b"tracestate", b"a=1")]) == ()


def engine(url: str) -> list[str]:
    return ["--engine", "http", "--upstream", url, "--model", Stub().model]


def post(url: str, **headers: str) -> dict[str, Any]:
    body = {"messages": ASKED, "strategy": "best_of_n"}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


@pytest.mark.slow
def test_a_trace_from_client_to_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable of OpenTelemetry switches it on; the end of the server sends what waits."""
    with collecting() as collector, upstream() as (url, seen):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "reasoner")
        with serving(*engine(url)) as server:
            seen.clear()
            post(server.url, traceparent=PARENT)
            server.process.terminate()
            assert server.end()[0] == 0
        [run] = collector.named("invoke_workflow")
    asked = {headers["traceparent"] for headers in seen}
    assert asked == {f"00-{TRACE}-{run.id}-01"}, "whom we ask works for the run"
    assert collector.resources[0]["service.name"] == "reasoner"


@pytest.mark.slow
def test_without_a_collector_the_clients_trace_is_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    with upstream() as (url, seen), serving(*engine(url)) as server:
        seen.clear()
        post(server.url)
        assert not any("traceparent" in headers for headers in seen)
        post(server.url, traceparent=PARENT)
    assert seen[-1]["traceparent"] == PARENT
