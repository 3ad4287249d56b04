"""What keeps traces, whatever it is: listed, chosen, owned, deleted, and kept within limits."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

from server.store.base import open_store
from server.traces import Filter, Traces, TraceStore
from server.traces.shared import SharedTraces
from strategies.events import Event, EventKind
from tests.store.serving import RedisServer

SECRET = "six-times-seven"


@pytest.fixture(params=["file", "sqlite", "redis"])
async def traces(
    request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer
) -> AsyncIterator[Traces]:
    if request.param == "file":
        async with aclosing(await TraceStore.open(tmp_path / "traces.sqlite")) as file:
            yield file
        return
    redis_server.empty()
    address = redis_server.url if request.param == "redis" else f"sqlite:{tmp_path / 'store'}"
    async with aclosing(await open_store(address)) as store:
        yield SharedTraces(store)


def story(text: str, agreement: float | None = None) -> list[Event]:
    return [
        Event(0, 0.25, EventKind.SAMPLED, {"id": "0.0.0", "text": text}),
        Event(1, 0.5, EventKind.FINISHED, {"agreement": agreement, "answer": "42"}),
    ]


async def save(traces: Traces, *names: str, owner: str = "", **header: Any) -> None:
    for name in names:
        told = {"kind": "chat", "model": "m", "strategy": "single", "tokens": 10, **header}
        await traces.save(name, told, story(SECRET, told.get("agreement")), owner)


async def ids(traces: Traces, after: str | None = None, limit: int = 100, **wanted: Any) -> str:
    page = await traces.page(Filter(**wanted), after=after, limit=limit)
    return " ".join(each.id for each in page)


async def test_what_was_saved_is_loaded(traces: Traces) -> None:
    odd = "½ \ud83d \x00"
    await traces.save("a", {"strategy": "single", "messages": [odd]}, story(odd, 0.5), "me")
    loaded = await traces.load("a")
    assert loaded is not None
    assert (loaded["id"], loaded["strategy"], loaded["messages"]) == ("a", "single", [odd])
    assert loaded["events"] == [
        {"index": 0, "seconds": 0.25, "kind": "sampled", "data": {"id": "0.0.0", "text": odd}},
        {
            "index": 1,
            "seconds": 0.5,
            "kind": "finished",
            "data": {"agreement": 0.5, "answer": "42"},
        },
    ]
    assert await traces.load("b") is None


async def test_they_are_listed_and_chosen_by_what_they_say(traces: Traces) -> None:
    await save(traces, "a", strategy="single", tokens=5)
    await save(traces, "b", strategy="best_of_n", tokens=50, agreement=0.5)
    await save(traces, "c", strategy="best_of_n", tokens=500, agreement=1.0)
    assert await ids(traces) == "c b a"
    assert await ids(traces, strategy="best_of_n") == "c b"
    assert await ids(traces, max_agreement=0.5) == "b"
    assert await ids(traces, min_agreement=0.5) == "c b"
    assert await ids(traces, min_tokens=50, max_tokens=499) == "b"
    assert await ids(traces, strategy="nothing") == ""
    (first, *_) = await traces.page(Filter())
    assert (first.model, first.kind, first.agreement, first.tokens) == ("m", "chat", 1.0, 500)
    assert first.bytes > len(SECRET)


async def test_lists_come_in_pages(traces: Traces) -> None:
    names = [f"t{number:02d}" for number in range(12)]
    await save(traces, *names)
    seen: list[str] = []
    while page := await ids(traces, after=seen[-1] if seen else None, limit=5):
        seen += page.split()
    assert seen == names[::-1]
    assert await ids(traces, after="gone") == ""


async def test_owners_see_and_delete_their_own(traces: Traces) -> None:
    await save(traces, "mine", owner="me")
    await save(traces, "yours", owner="you")
    assert await ids(traces, owner="me") == "mine"
    assert await traces.load("yours", "me") is None
    assert await traces.load("yours", "you") is not None
    assert not await traces.delete("yours", "me")
    assert await traces.delete("yours", "you")
    assert not await traces.delete("yours", "you")
    assert await traces.delete("mine")
    assert await ids(traces) == ""


async def test_the_oldest_go_first_where_there_is_too_much(traces: Traces) -> None:
    await save(traces, "a", "b", "c", "d", "e")
    (one, *_) = await traces.page(Filter())
    assert await traces.sweep(3600, 3 * one.bytes) == 2
    assert await ids(traces) == "e d c"
    assert await traces.load("b") is None


async def test_one_replica_sweeps_for_all(redis_server: RedisServer) -> None:
    redis_server.empty()
    async with aclosing(await open_store(redis_server.url)) as store:
        one, two = SharedTraces(store), SharedTraces(store)
        await save(one, "a", "b")
        assert [await each.sweep(3600, 0) for each in (one, two)] == [2, 0]
        await save(one, "c")
        assert [await each.sweep(3600, 0) for each in (two, one)] == [0, 1]


async def test_what_is_too_old_goes(traces: Traces) -> None:
    await save(traces, "a", "b")
    await asyncio.sleep(0.3)
    await save(traces, "c")
    assert await traces.sweep(0.2, 1 << 30) == 2
    assert await ids(traces) == "c"
    assert await traces.load("a") is None


async def test_many_are_swept(traces: Traces) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(450):
            group.create_task(save(traces, f"t{number}"))
    assert await traces.sweep(3600, 0) == 450
    assert await ids(traces) == ""


async def test_what_is_deleted_is_nowhere_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    async with aclosing(await TraceStore.open(path)) as traces:
        await save(traces, "a", messages=[SECRET * 1000])
        await save(traces, "b", messages=["another"])
        assert SECRET in _texts(tmp_path)
        for name in ("a", "b"):
            assert await traces.delete(name)
        assert SECRET not in _texts(tmp_path)


async def test_swept_space_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    async with aclosing(await TraceStore.open(path)) as traces:
        await save(traces, *map(str, range(20)), messages=["x" * 100_000])
        assert await traces.sweep(3600, 0) == 20
    assert path.stat().st_size < 200_000


def _texts(directory: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in directory.iterdir())


VERSION_1 = """
CREATE TABLE traces (id TEXT PRIMARY KEY, saved_at REAL NOT NULL, header TEXT NOT NULL) STRICT;
CREATE TABLE events (
    trace_id TEXT NOT NULL REFERENCES traces (id), number INTEGER NOT NULL, seconds REAL NOT NULL,
    kind TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (trace_id, number)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
"""


def write_version_1(path: Path) -> None:
    header = {"kind": "chat", "model": "m", "strategy": "best_of_n", "messages": ["½ \ud83d"]}
    data = [
        ("sampled", {"tokens": 7, "text": "a"}),
        ("sampled", {"tokens": 5, "text": "b"}),
        ("finished", {"agreement": 0.5}),
    ]
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1)
        connection.execute("INSERT INTO traces VALUES ('old', 1.5e9, ?)", (json.dumps(header),))
        connection.executemany(
            "INSERT INTO events VALUES ('old', ?, 0, ?, ?)",
            [(place, kind, json.dumps(told)) for place, (kind, told) in enumerate(data)],
        )
        connection.commit()


async def test_a_file_of_version_1_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    write_version_1(path)
    for _ in range(2):
        async with aclosing(await TraceStore.open(path)) as traces:
            (old,) = await traces.page(Filter(strategy="best_of_n"))
            assert (old.owner, old.saved_at, old.model) == ("", 1.5e9, "m")
            assert (old.agreement, old.tokens) == (0.5, 12)
            assert old.bytes > 0
            loaded = await traces.load("old")
            assert loaded is not None
            assert loaded["messages"] == ["½ \ud83d"]
            assert [event["kind"] for event in loaded["events"]] == [
                "sampled",
                "sampled",
                "finished",
            ]
