"""SIGTERM: streams and answers come to their end, or their clients are told that they do not."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from openai import APIError, AsyncOpenAI, InternalServerError

from tests.server.serving import Served, serving

pytestmark = pytest.mark.slow

STREAMS = 50
BODY = {"messages": [{"role": "user", "content": "How long is a piece of string?"}]}
PATH = "/v1/chat/completions"


@asynccontextmanager
async def connected(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        yield client


async def read_stream(client: httpx.AsyncClient, opened: asyncio.Semaphore, seed: int) -> list[Any]:
    """Read a stream's events; `opened` is released at the first one."""
    events: list[Any] = []
    body = BODY | {"stream": True, "seed": seed, "budget": {"deadline_s": 60}}
    async with client.stream("POST", PATH, json=body) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                events.append(line[6:] if line == "data: [DONE]" else json.loads(line[6:]))
                if len(events) == 1:
                    opened.release()
    return events


async def streams_through(server: Served, *, signals: int = 1) -> tuple[list[list[Any]], float]:
    """Open 50 streams, end the server, and return their events and the seconds that it took."""
    opened = asyncio.Semaphore(0)
    async with connected(server) as client, asyncio.TaskGroup() as group:
        reading = [group.create_task(read_stream(client, opened, i)) for i in range(STREAMS)]
        for _ in range(STREAMS):
            await opened.acquire()
        began = time.monotonic()
        for _ in range(signals):
            server.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
    events = [each.result() for each in reading]
    code, errors = await asyncio.to_thread(server.end)
    assert code == 0, errors
    assert "Traceback" not in errors
    return events, time.monotonic() - began


async def test_streams_come_to_their_end() -> None:
    with serving(delay_s="0.02", drain_s="20", admission__slots="64") as server:
        streams, seconds = await streams_through(server)
    for events in streams:
        assert events[-1] == "[DONE]"
        assert not any("error" in event for event in events[:-1])
        assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert seconds < 20


@pytest.mark.parametrize(("drain_s", "signals"), [("1", 1), ("60", 2)])
async def test_streams_that_take_too_long_are_told(drain_s: str, signals: int) -> None:
    """At the end of the drain, or at once where the operator has no patience."""
    with serving(delay_s="1", drain_s=drain_s, admission__slots="64") as server:
        streams, seconds = await streams_through(server, signals=signals)
    for events in streams:
        assert events[-1] == "[DONE]"
        assert events[-2]["error"]["code"] == "server_ending"
        assert events[-2]["error"].keys() == {"message", "type", "param", "code"}
    assert seconds < 4


async def test_the_official_client_raises_on_a_stream_that_is_cut_off() -> None:
    with serving(delay_s="1", drain_s="0") as server:
        client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        async with client:
            chunks = await client.chat.completions.create(
                model="scripted", messages=BODY["messages"], stream=True
            )
            await anext(chunks)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(APIError, match="the server is ending"):
                async for _ in chunks:
                    pass
        assert server.end()[0] == 0


async def test_whole_answers_end_or_are_refused() -> None:
    """A short one is finished; one that cannot be gets a 503, and so does a body still coming."""
    with serving(delay_s="0.2", drain_s="1.5", admission__slots="64") as server:
        short, long = BODY | {"max_tokens": 2}, BODY | {"max_tokens": 100, "seed": 1}
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
            raw.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
                b"Content-Type: application/json\r\n\r\n{"
            )
            async with connected(server) as client, asyncio.TaskGroup() as group:
                asking = [group.create_task(client.post(PATH, json=long)) for _ in range(10)]
                await asyncio.sleep(1)
                asking += [group.create_task(client.post(PATH, json=short)) for _ in range(10)]
                await asyncio.sleep(0.2)
                server.process.send_signal(signal.SIGTERM)
            answers = [each.result() for each in asking]
            received = await asyncio.to_thread(raw.recv, 4096)
        code, errors = server.end()
        assert code == 0, errors
        assert "Traceback" not in errors
    assert [each.status_code for each in answers] == [503] * 10 + [200] * 10
    for answer in answers[:10]:
        assert answer.json()["error"]["code"] == "server_ending"
        assert answer.headers["x-request-id"]
        assert answer.headers.keys() & {"retry-after", "x-should-retry"}
    assert received.startswith(b"HTTP/1.1 503")


async def test_the_official_client_is_told_in_its_own_terms() -> None:
    with serving(delay_s="1", drain_s="0") as server:
        client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        async with client:
            asking = asyncio.create_task(
                client.chat.completions.create(model="scripted", messages=BODY["messages"])
            )
            await asyncio.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(InternalServerError) as raised:
                await asking
        assert raised.value.status_code == 503
        assert raised.value.code == "server_ending"
        assert server.end()[0] == 0


async def test_balancers_are_told_before_the_door_shuts() -> None:
    with serving(drain_notice_s="1.5") as server:
        async with connected(server) as client:
            assert (await client.get("/readyz")).status_code == 200
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            unready = await client.get("/readyz")
            assert unready.status_code == 503
            assert unready.json()["error"]["code"] == "server_ending"
            assert unready.headers["connection"] == "close"
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.post(PATH, json=BODY)).status_code == 200
            await asyncio.sleep(began + 2 - time.monotonic())
            with pytest.raises(httpx.ConnectError):
                await client.get("/healthz")
        code, errors = server.end()
        assert code == 0, errors
        assert time.monotonic() - began < 5
