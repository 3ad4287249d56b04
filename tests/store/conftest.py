from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from server.store.base import Store, open_store
from server.store.opening import MEMORY
from tests.store.serving import RedisServer

KINDS = ("memory", "file", "redis")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Run the test on each implementation, on SQLite in memory and in a file."""
    name: str = request.param
    return name


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Return the address of an empty store."""
    if kind == "memory":
        return MEMORY
    if kind == "file":
        return f"sqlite:{tmp_path / 'state' / 'store.sqlite'}"
    server: RedisServer = request.getfixturevalue("redis_server")
    if not server.answers():  # another test of the module killed it
        server.start()
    server.empty()
    return server.url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """Open an empty store."""
    async with aclosing(await open_store(url)) as opened:
        yield opened


@pytest.fixture
async def peer(url: str, store: Store) -> AsyncIterator[Store]:
    """Open the same store as another server would; in memory there is but one."""
    if url == MEMORY:
        yield store
        return
    async with aclosing(await open_store(url)) as opened:
        yield opened
