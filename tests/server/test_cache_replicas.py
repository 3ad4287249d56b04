"""Two servers on one Redis, before one upstream that counts: equal requests are made once."""

import asyncio
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from server.cache.shelf import LEASE_S
from tests.server.serving import Served, serving
from tests.store.serving import RedisServer
from tests.stub_upstream import Stub, running_stub

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "What is 6 times 7?"}]


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with running_stub(interval=0.02) as running:
        yield running


def replica(redis: RedisServer, stub: Stub) -> Any:
    settings: dict[str, Any] = {"store": redis.url, "upstream": stub.base_url, "model": "stub"}
    return serving("--engine", "http", **settings)


@pytest.fixture(scope="module")
def replicas(redis_server: RedisServer, stub: Stub) -> Iterator[tuple[Served, Served]]:
    with replica(redis_server, stub) as one, replica(redis_server, stub) as two:
        yield one, two


@pytest.fixture(autouse=True)
def quiet(stub: Stub) -> None:
    stub.interval = 0.02
    stub.records.clear()


async def ask(client: httpx.AsyncClient, server: Served, **body: Any) -> dict[str, Any]:
    told = {"messages": MESSAGES, "cache": True, **body}
    response = await client.post(f"{server.url}{CHAT}", json=told)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def together(servers: Sequence[Served], **body: Any) -> list[dict[str, Any]]:
    """Send equal requests to these servers at the same time."""
    async with httpx.AsyncClient(timeout=60) as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(client, server, **body)) for server in servers]
    return [task.result() for task in tasks]


@contextmanager
def posted(server: Served, **body: Any) -> Iterator[None]:
    """Send a request and, at the end of the block, hang up without having read the answer."""
    address = urlsplit(server.url)
    content = json.dumps({"messages": MESSAGES, "cache": True, **body}).encode()
    with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
            b"\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
        )
        yield


def statuses(answers: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(each["scaling"]["cache"] for each in answers)


def sampled(server: Served) -> int:
    """Read how many samples a server has drawn."""
    text = httpx.get(f"{server.url}/metrics").text
    found = re.findall(r'^forethought_calls_total\{.*stage="sample".*\} (\S+)$', text, re.MULTILINE)
    return int(sum(map(float, found)))


async def until(condition: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too late"
        await asyncio.sleep(0.01)


async def test_twenty_equal_requests_are_one_computation(
    replicas: tuple[Served, Served], stub: Stub
) -> None:
    before = sum(map(sampled, replicas))
    answers = await together(replicas * 10, strategy={"type": "self_consistency", "n": 4})
    assert statuses(answers) == ["miss", *["shared"] * 19]
    assert sum(map(sampled, replicas)) - before == 4
    assert sum(each["usage"]["completion_tokens"] for each in answers) == stub.tokens
    assert len({json.dumps(each["choices"]) for each in answers}) == 1
    made = next(each for each in answers if each["scaling"]["cache"] == "miss")
    others = [each["scaling"]["original"]["id"] for each in answers if each is not made]
    assert set(others) == {made["id"]}
    records = len(stub.records)
    again = await together(replicas * 2, strategy={"type": "self_consistency", "n": 4})
    assert statuses(again) == ["hit"] * 4
    assert len(stub.records) == records


async def test_different_requests_share_nothing(
    replicas: tuple[Served, Served], stub: Stub
) -> None:
    async with httpx.AsyncClient(timeout=60) as client, asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(ask(client, replicas[seed % 2], seed=1000 + seed))
            for seed in range(6)
        ]
    assert statuses([task.result() for task in tasks]) == ["miss"] * 6
    assert len(stub.records) == 6


async def test_the_work_goes_on_for_those_who_wait_elsewhere(
    replicas: tuple[Served, Served], stub: Stub
) -> None:
    stub.interval = 0.1
    one, two = replicas
    with posted(one, seed=1):
        await until(lambda: stub.running == 1)
        others = asyncio.create_task(together([two, two], seed=1))
        await asyncio.sleep(0.5)
    await asyncio.sleep(0.2)
    stub.interval = 0.01
    assert statuses(await others) == ["shared", "shared"]
    assert len(stub.records) == 1
    assert stub.records[0].aborted is None


async def test_one_who_waits_elsewhere_may_leave(
    replicas: tuple[Served, Served], stub: Stub
) -> None:
    one, two = replicas
    stub.interval = 0.05
    made = asyncio.create_task(together([one], seed=2))
    await until(lambda: stub.running == 1)
    with posted(two, seed=2):
        await asyncio.sleep(0.3)
    assert statuses(await made) == ["miss"]
    assert [each.aborted for each in stub.records] == [None]


async def test_what_nobody_waits_for_anywhere_is_stopped(
    replicas: tuple[Served, Served], stub: Stub
) -> None:
    stub.interval = 0.2
    with posted(replicas[0], seed=3):
        await until(lambda: stub.running == 1)
    await until(lambda: stub.records[0].aborted is not None, seconds=2)
    stub.interval = 0.0
    began = time.monotonic()
    assert statuses(await together([replicas[1]], seed=3)) == ["miss"]
    assert time.monotonic() - began < LEASE_S / 2, "its claim went with it"


async def test_a_maker_that_is_killed_is_replaced_by_one_who_waits(
    redis_server: RedisServer, stub: Stub
) -> None:
    with ExitStack() as stack:
        one = stack.enter_context(replica(redis_server, stub))
        two = stack.enter_context(replica(redis_server, stub))
        stub.records.clear()
        stub.interval = 0.3
        with posted(one, seed=4):
            await until(lambda: stub.running == 1)
            others = asyncio.create_task(together([two] * 3, seed=4))
            await asyncio.sleep(0.5)
            os.kill(one.process.pid, signal.SIGKILL)
        stub.interval, killed = 0.0, time.monotonic()
        answers = await others
        assert time.monotonic() - killed < LEASE_S + 3
        # The first of those who wait makes it: to the others it is shared, as before.
        assert statuses(answers) == ["miss", "shared", "shared"]
        assert len(stub.records) == 2


async def test_redis_that_dies_costs_no_answer(
    redis_server: RedisServer, replicas: tuple[Served, Served], stub: Stub
) -> None:
    stub.interval = 0.05
    waiting = asyncio.create_task(together(replicas, seed=5))
    await until(lambda: stub.running == 1)
    await asyncio.sleep(0.3)
    redis_server.kill()
    try:
        answers = await waiting
        assert set(statuses(answers)) <= {"miss", "unavailable"}
        assert statuses(await together(replicas, seed=6)) == ["unavailable"] * 2
    finally:
        redis_server.start()
    await until(lambda: _kept(replicas[0], seed=7), seconds=10)


def _kept(server: Served, **body: Any) -> bool:
    told = {"messages": MESSAGES, "cache": True, **body}
    answer = httpx.post(f"{server.url}{CHAT}", json=told, timeout=30).json()
    return bool(answer["scaling"]["cache"] == "hit")
