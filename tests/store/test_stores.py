"""Both stores have the protocol's interface, and say what is wrong with an address."""

import inspect
import sqlite3
import subprocess
import sys
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from server.store.base import Store, StoreError, StoreUnavailable, open_store
from server.store.blobs import Blobs
from server.store.jobs import Jobs
from server.store.limits import Limits
from server.store.opening import MEMORY, default_url, opened
from server.store.records import Records
from server.store.sqlite.connection import connect
from server.store.streams import Streams
from tests.store.serving import RedisServer

NOUNS: dict[str, Any] = {
    "records": Records,
    "blobs": Blobs,
    "streams": Streams,
    "jobs": Jobs,
    "limits": Limits,
}


def interface(cls: type) -> dict[str, tuple[inspect.Signature, bool]]:
    return {
        name: (inspect.signature(member), inspect.iscoroutinefunction(member))
        for name, member in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    }


async def test_every_noun_has_the_interface_of_its_protocol(store: Store) -> None:
    assert NOUNS.keys() == Store.__annotations__.keys()
    for name, protocol in NOUNS.items():
        ours = interface(type(getattr(store, name)))
        for method, told in interface(protocol).items():
            assert ours[method] == told, f"{name}.{method}"
    for method, told in interface(Store).items():
        assert interface(type(store))[method] == told, method


async def test_a_store_answers(store: Store) -> None:
    await store.check()
    assert await store.sweep() == 0


async def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state" / "store.sqlite"
    async with aclosing(await open_store(str(path))) as store:
        await store.records.add("a", "b", {})
        assert path.parent.stat().st_mode & 0o777 == 0o700
        modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert modes == dict.fromkeys(("store.sqlite", "store.sqlite-wal", "store.sqlite-shm"), 0o600)


async def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE things (name TEXT)")
    connection.close()
    text = tmp_path / "text"
    text.write_text("this is no data base" * 100)
    for place in (other, text, tmp_path):
        with pytest.raises(StoreError, match=place.name):
            await open_store(f"sqlite:{place}")


async def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    await (await open_store(str(path))).aclose()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="version is 99, not 1"):
        await open_store(str(path))


async def test_another_version_in_redis_is_refused(redis_server: RedisServer) -> None:
    redis_server.empty()
    async with opened(redis_server.url) as store:
        await store.check()
    subprocess.run(
        ["redis-cli", "-p", str(redis_server.port), "SET", "{forethought}:version", "99"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with pytest.raises(StoreError, match="is 99, not 1"):
        async with opened(redis_server.url):
            pass


@pytest.mark.parametrize("url", ["redis://:secret@host:port", "redis://h?db=x", "rediss://[/"])
async def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        await open_store(url)
    assert "secret" not in str(caught.value)


async def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    for number in range(10):
        path, failed = str(tmp_path / f"{number}.sqlite"), list[BaseException]()
        barrier = threading.Barrier(6)

        def begin(path: str = path, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                connect(path).close()
            except sqlite3.Error as error:
                failed.append(error)  # noqa: B023

        threads = [threading.Thread(target=begin) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []


async def test_a_file_that_is_locked_for_long_is_unavailable(tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    async with aclosing(await open_store(path)) as store:
        await store.records.add("a", "b", {"n": 1})
        other = connect(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await store.records.put("a", "b", {"n": 2})
        record = await store.records.get("a", "b")
        assert record is not None
        assert record.value == {"n": 1}
        other.execute("ROLLBACK")
        other.close()
        await store.records.put("a", "b", {"n": 2})


def test_the_default_is_in_the_users_state_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_url() == f"sqlite:{tmp_path}/forethought/store.sqlite"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/ann")
    assert default_url() == "sqlite:/home/ann/.local/state/forethought/store.sqlite"


async def test_redis_is_imported_where_it_is_used() -> None:
    program = (
        "import asyncio, sys\n"
        "from server.store.opening import MEMORY, open_store\n"
        "asyncio.run(asyncio.wait_for(open_store(MEMORY), 9))\n"
        "print('redis' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
    assert MEMORY == "sqlite::memory:"
