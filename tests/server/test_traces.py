"""Traces: what was saved is there, whatever happens to the process."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from server.traces import TraceError, TraceStore
from strategies.events import Event, EventKind


def events(count: int) -> list[Event]:
    return [
        Event(index, index / 8, EventKind.SAMPLED, {"id": f"0.0.{index}", "text": "½ \ud83d \x00"})
        for index in range(count)
    ]


async def test_saved_is_loaded(tmp_path: Path) -> None:
    store = await TraceStore.open(tmp_path / "new" / "traces.sqlite")
    await store.save("a", {"strategy": "single", "parameters": {"n": 1}}, events(3))
    loaded = await store.load("a")
    assert loaded is not None
    assert loaded["id"] == "a"
    assert loaded["strategy"] == "single"
    assert loaded["parameters"] == {"n": 1}
    assert loaded["events"] == [
        {"index": each.index, "seconds": each.seconds, "kind": "sampled", "data": each.data}
        for each in events(3)
    ]
    assert await store.load("b") is None
    await store.aclose()


async def test_concurrent_saves_and_reopening(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    store = await TraceStore.open(path)
    async with asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(store.save(f"t{number}", {"number": number}, events(number % 7)))
    await store.aclose()
    store = await TraceStore.open(path)
    for number in range(200):
        loaded = await store.load(f"t{number}")
        assert loaded is not None
        assert (loaded["number"], len(loaded["events"])) == (number, number % 7)
    await store.aclose()


async def test_a_save_that_fails_takes_no_other_along(tmp_path: Path) -> None:
    store = await TraceStore.open(tmp_path / "traces.sqlite")
    saves = [
        asyncio.create_task(store.save(name, {"place": place}, events(2)))
        for place, name in enumerate(("a", "b", "a", "c"))
    ]
    await asyncio.wait(saves)
    assert [type(save.exception()) for save in saves] == [
        type(None),
        type(None),
        sqlite3.IntegrityError,
        type(None),
    ]
    kept = await store.load("a")
    assert kept is not None
    assert kept["place"] == 0
    assert await store.load("c") is not None
    await store.aclose()


async def test_a_cancelled_save_does_not_stop_the_writer(tmp_path: Path) -> None:
    store = await TraceStore.open(tmp_path / "traces.sqlite")
    cancelled = asyncio.create_task(store.save("a", {}, events(1)))
    await asyncio.sleep(0)
    cancelled.cancel()
    await store.save("b", {}, events(1))
    assert await store.load("b") is not None
    await store.aclose()


async def test_the_event_loop_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    store = await TraceStore.open(path)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.4, other.execute, ("ROLLBACK",)).start()
    save = asyncio.create_task(store.save("a", {}, events(1)))
    turns = 0
    while not save.done():
        await asyncio.sleep(0.01)
        turns += 1
    await save
    assert turns > 15
    other.close()
    await store.aclose()


def test_saved_outlives_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    program = f"""
import asyncio, os, signal
from server.traces import TraceStore
async def main():
    store = await TraceStore.open({str(path)!r})
    await store.save("a", {{"kept": True}}, [])
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=os.getcwd())
    assert done.returncode == -signal.SIGKILL

    async def load() -> None:
        store = await TraceStore.open(path)
        loaded = await store.load("a")
        assert loaded is not None
        assert loaded["kept"] is True
        await store.aclose()

    asyncio.run(load())


async def test_foreign_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.sqlite"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()
    newer = tmp_path / "newer.sqlite"
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    text = tmp_path / "text"
    text.write_text("not a database, but long enough to be looked at as one" * 100)
    for path in (foreign, newer, text, tmp_path):
        with pytest.raises(TraceError, match="traces cannot be kept in"):
            await TraceStore.open(path)
