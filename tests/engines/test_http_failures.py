"""The HTTP engine against a real socket: what it makes of failures, and what it leaves behind."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace

import pytest
from pydantic_core import to_json

from server.engines.http import HTTPEngine
from tests.engines.conftest import started
from tests.engines.contract import PROMPT, SAMPLING, draw
from tests.stub_upstream import Fault, Stub, running_stub
from verifiers.errors import BadRequest, EngineError, EngineTimeout, EngineUnavailable
from verifiers.types import Sampling

STREAMED = replace(SAMPLING, incremental=True)


async def test_nobody_there_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(EngineUnavailable):
            await HTTPEngine.start(url, "stub", retries=1)


async def test_a_refused_key_is_no_fault_of_the_client() -> None:
    with running_stub(api_key="secret") as stub:
        with pytest.raises(EngineError, match="credentials") as refused:
            await HTTPEngine.start(stub.base_url, stub.model, api_key="wrong")
        assert not isinstance(refused.value, BadRequest)
        async with started(stub, api_key="secret") as engine:
            assert (await draw(engine))[0].last.error is None


@pytest.mark.parametrize("sampling", [SAMPLING, STREAMED], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (404, BadRequest),
        (413, BadRequest),
        (422, BadRequest),
        (401, EngineError),
        (403, EngineError),
        (418, EngineError),
        (500, EngineError),
        (502, EngineError),
        (504, EngineTimeout),
    ],
)
async def test_a_status_becomes_one_of_our_errors(
    engine: HTTPEngine, stub: Stub, sampling: Sampling, status: int, kind: type[Exception]
) -> None:
    stub.faults.append(Fault(status))
    if kind is BadRequest:
        with pytest.raises(BadRequest, match="injected") as raised:
            await draw(engine, sampling)
        assert raised.value.param == "here"
    else:
        error = (await draw(engine, sampling))[0].last.error
        assert type(error) is kind
    assert len(stub.records) == 1, "not sent again"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_upstream_is_asked_again(engine: HTTPEngine, stub: Stub, status: int) -> None:
    stub.faults.extend([Fault(status, headers={"retry-after": "1"}), Fault(status)])
    begun = time.monotonic()
    sample = (await draw(engine))[0]
    assert sample.last.finish_reason is not None
    assert len(stub.records) == 3
    assert time.monotonic() - begun >= 1.0, "Retry-After is honoured"


async def test_retries_are_bounded_in_number_and_in_time(stub: Stub) -> None:
    async with started(stub, retries=1) as engine:
        stub.faults.extend([Fault(503)] * 2)
        sample = (await draw(engine))[0]
        assert isinstance(sample.last.error, EngineUnavailable)
        assert sample.usage.exact, "nothing was generated"
        stub.faults.append(Fault(429, headers={"retry-after": "12"}))
        assert isinstance((await draw(engine))[0].last.error, EngineUnavailable)
        assert len(stub.records) == 3


async def test_a_late_answer_is_a_timeout_and_not_asked_again(stub: Stub) -> None:
    async with started(stub, timeout=0.3) as engine:
        stub.faults.append(Fault(header_delay=5.0))
        sample = (await draw(engine))[0]
        assert isinstance(sample.last.error, EngineTimeout)
        assert not sample.usage.exact
        assert len(stub.records) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"index": 0}]}',
        b'{"choices": [{"index": 0, "message": {"content": 7}, "finish_reason": "stop"}]}',
        b'{"choices": [{"index": 5, "message": {"content": ""}, "finish_reason": "stop"}]}',
        b'{"choices": [{"index": 0, "message": {"content": ""}, "finish_reason": "abort"}]}',
        b'{"choices": "none"}',
    ],
)
async def test_an_answer_of_another_shape_is_an_engine_error(
    engine: HTTPEngine, stub: Stub, body: bytes
) -> None:
    stub.faults.append(Fault(body=body))
    assert type((await draw(engine))[0].last.error) is EngineError
    stub.faults.append(Fault(body=b"data: " + body + b"\n\ndata: [DONE]\n\n"))
    assert type((await draw(engine, STREAMED))[0].last.error) is EngineError


async def test_an_error_event_ends_the_sample(engine: HTTPEngine, stub: Stub) -> None:
    event = to_json({"error": {"message": "out of blocks"}})
    stub.faults.append(Fault(body=b"data: " + event + b"\n\n"))
    error = (await draw(engine, STREAMED))[0].last.error
    assert isinstance(error, EngineError)
    assert "out of blocks" in error.message


async def test_a_break_in_mid_stream_keeps_what_came(engine: HTTPEngine, stub: Stub) -> None:
    stub.faults.append(Fault(disconnect_after=5))
    samples = await draw(engine, STREAMED, n=2)
    broken = [sample for sample in samples.values() if sample.last.error is not None]
    assert len(broken) == 1
    assert type(broken[0].last.error) is EngineError
    assert len(broken[0].text.split()) == 4, "the role event, then four tokens"
    assert broken[0].usage.completion_tokens == 4
    assert not broken[0].usage.exact


async def test_a_break_in_a_whole_answer_fails_the_group(engine: HTTPEngine, stub: Stub) -> None:
    stub.faults.append(Fault(disconnect_after=0))
    samples = await draw(engine, n=3)
    assert set(samples) == {0, 1, 2}
    for sample in samples.values():
        assert type(sample.last.error) is EngineError
        assert not sample.usage.exact
    assert len(stub.records) == 1, "something may have been generated, so not sent again"


@pytest.mark.parametrize("sampling", [SAMPLING, STREAMED], ids=["whole", "streamed"])
async def test_an_upstream_without_usage_is_not_exact(sampling: Sampling) -> None:
    with running_stub(usage=False) as stub:
        async with started(stub) as engine:
            sample = (await draw(engine, sampling))[0]
            assert sample.last.finish_reason is not None
            assert sample.usage.completion_tokens == 0
            assert not sample.usage.exact


@pytest.mark.parametrize("streaming", [True, False], ids=["streamed", "whole"])
async def test_nothing_is_made_later_than_two_intervals_after_a_hang_up(
    engine: HTTPEngine, stub: Stub, streaming: bool
) -> None:
    stub.interval = 0.1
    sampling = replace(SAMPLING, max_tokens=400, incremental=streaming)
    chunks = engine.generate(PROMPT, sampling, 4)
    reading = asyncio.create_task(anext(chunks))
    if streaming:
        await reading
    else:
        await asyncio.sleep(0.35)
        reading.cancel()
        await asyncio.wait([reading])
    hung_up = time.monotonic()
    await chunks.aclose()
    assert time.monotonic() - hung_up < 0.1, "closing does not wait for the upstream"
    await asyncio.sleep(1.0)
    made = [moment for record in stub.records for moment in record.tokens]
    assert made, "it was at work"
    assert max(made) <= hung_up + 2 * stub.interval
    assert all(record.aborted is not None for record in stub.records)
    assert stub.running == 0


async def test_fewer_choices_than_asked_for_fail_alone(engine: HTTPEngine, stub: Stub) -> None:
    stub.honours_n = False
    samples = await draw(engine, n=3)
    assert samples[0].last.finish_reason is not None
    assert all(isinstance(samples[index].last.error, EngineError) for index in (1, 2))
