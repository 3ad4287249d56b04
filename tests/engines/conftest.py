"""The engines that the contract is held against: a new one is an opener and a row of ENGINES."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from server.engines.http import HTTPEngine
from server.engines.scripted import ScriptedEngine
from tests.engines.contract import Subject
from tests.stub_upstream import Fault, Stub, running_stub
from verifiers.errors import EngineError


@asynccontextmanager
async def scripted() -> AsyncIterator[Subject]:
    engine = ScriptedEngine()

    def slow(delay: float) -> None:
        engine.delay = delay

    def fail_one() -> None:
        engine.fail = lambda _, index: EngineError("told to fail") if index == 1 else None

    yield Subject(engine, lambda: engine.log["tokens"], lambda: engine.running, slow, fail_one)


@asynccontextmanager
async def http_upstream(**behaviour: bool) -> AsyncIterator[Subject]:
    with running_stub(**behaviour) as stub:
        engine = await HTTPEngine.start(stub.base_url, stub.model)
        try:
            yield _http_subject(stub, engine)
        finally:
            await engine.aclose()


def _http_subject(stub: Stub, engine: HTTPEngine) -> Subject:
    def slow(interval: float) -> None:
        stub.interval = interval

    def fail_one() -> None:
        stub.faults.append(Fault(status=500))

    return Subject(engine, lambda: stub.tokens, lambda: stub.running, slow, fail_one)


def http_one_by_one() -> AbstractAsyncContextManager[Subject]:
    """Serve from an upstream that knows neither `n` nor continuous usage nor going on."""
    return http_upstream(honours_n=False, continuous_usage=False, continuation=False)


ENGINES: dict[str, Callable[[], AbstractAsyncContextManager[Subject]]] = {
    "scripted": scripted,
    "http": http_upstream,
    "http-one-by-one": http_one_by_one,
}


@pytest.fixture(params=list(ENGINES))
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async with ENGINES[request.param]() as opened:
        yield opened


@pytest.fixture
def stub() -> Iterator[Stub]:
    with running_stub() as running:
        yield running


@pytest.fixture
async def engine(stub: Stub) -> AsyncIterator[HTTPEngine]:
    async with started(stub) as running:
        yield running


@asynccontextmanager
async def started(stub: Stub, **options: Any) -> AsyncIterator[HTTPEngine]:
    engine = await HTTPEngine.start(stub.base_url, stub.model, **options)
    stub.records.clear()
    try:
        yield engine
    finally:
        await engine.aclose()
