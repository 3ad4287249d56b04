"""Background requests in one server: polled, followed, cancelled, deleted, tried again."""

import json
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest
from openai import OpenAI

from server.background.chat import KIND, ChatForm
from server.background.journal import follow
from server.background.work import Status, Works
from server.document.later import Background, Deleted
from server.engines.scripted import ScriptedEngine
from server.errors import NotFound
from server.settings import BackgroundSettings
from server.store.sqlite.store import SQLiteStore
from server.streaming import DONE
from tests.server.local import QUESTION, Local, error_of, local
from verifiers.errors import EngineError, EngineUnavailable

VOTE = {"type": "self_consistency", "n": 4}
SLOW = 0.02
QUICK: dict[str, Any] = {"background": {"backoff_s": 0.05, "attempts": 3}}


def submit(server: Local, **body: Any) -> str:
    response = server.post(background=True, **body)
    assert response.status_code == 200, response.text
    told = response.json()
    assert (told["object"], told["status"], told["completion"]) == (KIND, "queued", None)
    assert told["id"].startswith("bg_")
    return str(told["id"])


def show(server: Local, work_id: str) -> dict[str, Any]:
    response = server.http.get(f"/v1/background/{work_id}")
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    Background.model_validate(told)  # as the OpenAPI document says
    return told


def ended(server: Local, work_id: str, seconds: float = 10.0) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while (told := show(server, work_id))["status"] in ("queued", "in_progress"):
        assert time.monotonic() < end, told
        time.sleep(0.02)
    return told


def events(
    server: Local, work_id: str, most: int | None = None, headers: Any = None, **query: Any
) -> list[tuple[int, Any]]:
    """Follow to the end, which is checked, or to so many events."""
    path, found, lines = f"/v1/background/{work_id}/events", [], []
    with server.http.stream("GET", path, headers=headers, params=query) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if not line or line.startswith(":"):
                continue
            lines.append(line)
            if line.startswith("data: {"):
                found.append((int(lines[-2].removeprefix("id: ")), json.loads(line[6:])))
            if len(found) == most:
                return found
    assert lines[-1] == "data: [DONE]"
    return found


def said(told: list[tuple[int, Any]]) -> str:
    """Put the answer together as a client does: each turn begins it anew."""
    text = ""
    for _, event in told:
        if event["object"] == KIND:
            text = "" if event["status"] == "in_progress" else text
        else:
            text += "".join(each["delta"].get("content", "") for each in event["choices"])
    return text


@pytest.fixture(scope="module")
def server() -> Iterator[Local]:
    with local() as served:
        yield served


@pytest.fixture
def slow() -> Iterator[Local]:
    with local(ScriptedEngine(delay=SLOW)) as served:
        yield served


def test_the_answer_is_that_of_an_ordinary_request(server: Local) -> None:
    body: dict[str, Any] = {"seed": 3, "strategy": VOTE}
    told = ended(server, submit(server, **body))
    whole = server.post(**body).json()
    assert told["status"] == "completed"
    assert told["completion"]["choices"] == whole["choices"]
    assert told["completion"]["usage"] == whole["usage"]
    assert told["completion"]["scaling"]["answer"] == whole["scaling"]["answer"]
    assert (told["strategy"], told["model"], told["turn"]) == ("self_consistency", "scripted", 1)
    assert told["created_at"] <= told["started_at"] <= told["ended_at"] < told["expires_at"]
    assert told["error"] is None


def test_the_official_client(server: Local) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        messages: Any = QUESTION
        made = client.chat.completions.create(
            model="scripted", messages=messages, extra_body={"background": True}
        )
    assert ended(server, made.id)["completion"]["choices"]


def test_a_strategy_in_the_path(server: Local) -> None:
    response = server.post("/v1/best_of_n/chat/completions", background=True)
    assert ended(server, response.json()["id"])["strategy"] == "best_of_n"


def test_events_are_the_chunks_and_how_it_ended(server: Local) -> None:
    work_id = submit(server, seed=5, strategy=VOTE, stream_options={"include_progress": True})
    told = events(server, work_id)
    numbers = [number for number, _ in told]
    assert numbers == sorted(set(numbers))
    (_, first), *_, (_, last) = told
    assert (first["object"], first["status"]) == (KIND, "in_progress")
    assert last == show(server, work_id)
    assert said(told) == last["completion"]["choices"][0]["message"]["content"]
    kinds = [e["scaling"]["event"]["kind"] for _, e in told if "event" in e.get("scaling", {})]
    assert kinds == ["sampled"] * 4 + ["voted", "finished"]


def test_events_come_while_it_is_worked_on(slow: Local) -> None:
    work_id = submit(slow, seed=5)
    events(slow, work_id, most=4)
    assert show(slow, work_id)["status"] == "in_progress"


@pytest.mark.parametrize("how", ["query", "header"])
def test_who_comes_back_misses_nothing(slow: Local, how: str) -> None:
    work_id = submit(slow, seed=5)
    first = events(slow, work_id, most=3)
    last = first[-1][0]
    query = {"after": last} if how == "query" else {}
    headers = {"Last-Event-ID": str(last)} if how == "header" else {}
    rest = events(slow, work_id, headers=headers, **query)
    assert [*first, *rest] == events(slow, work_id)
    assert events(slow, work_id, after=rest[-1][0]) == []


def test_one_that_is_to_stream_is_followed_at_once(server: Local) -> None:
    response = server.post(background=True, stream=True, seed=1)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    [first, *_] = [line for line in response.text.splitlines() if line.startswith("data: ")]
    work_id = json.loads(first.removeprefix("data: "))["id"]
    assert show(server, work_id)["status"] == "completed"


def test_cancelling_stops_the_work(slow: Local) -> None:
    work_id = submit(slow, seed=5, strategy=VOTE)
    slow.wait_until(lambda: slow.engine.running == 4)
    told = slow.http.post(f"/v1/background/{work_id}/cancel").json()
    assert (told["status"], told["completion"]) == ("cancelled", None)
    slow.wait_until(lambda: slow.engine.running == 0, seconds=2)
    assert slow.engine.log["aborted"] > 0
    assert show(slow, work_id)["status"] == "cancelled"
    assert events(slow, work_id)[-1][1]["status"] == "cancelled"
    again = slow.http.post(f"/v1/background/{work_id}/cancel").json()
    assert again == show(slow, work_id)


def test_what_has_ended_cannot_be_cancelled(server: Local) -> None:
    work_id = submit(server)
    before = ended(server, work_id)
    assert server.http.post(f"/v1/background/{work_id}/cancel").json() == before


def test_one_that_waits_is_cancelled_and_never_begun() -> None:
    with local(background={"at_once": 0}) as server:
        work_id = submit(server)
        assert server.http.post(f"/v1/background/{work_id}/cancel").json()["status"] == "cancelled"
        assert events(server, work_id) == [(1, show(server, work_id))]
        assert server.engine.log["started"] == 0


def test_deleting_stops_and_forgets(slow: Local) -> None:
    work_id = submit(slow, seed=5, strategy=VOTE)
    slow.wait_until(lambda: slow.engine.running == 4)
    told = slow.http.delete(f"/v1/background/{work_id}").json()
    Deleted.model_validate(told)
    assert told == {"id": work_id, "object": KIND, "deleted": True}
    slow.wait_until(lambda: slow.engine.running == 0, seconds=2)
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("DELETE", "")):
        response = slow.http.request(method, f"/v1/background/{work_id}{path}")
        assert response.status_code == 404
        assert error_of(response)["param"] == "work_id"


def test_it_expires() -> None:
    with local(background={"keep_s": 1}) as server:
        work_id = submit(server)
        ended(server, work_id)
        path = f"/v1/background/{work_id}"
        server.wait_until(lambda: server.http.get(path).status_code == 404, seconds=5)


def test_what_cannot_be_served_is_refused_at_once(server: Local) -> None:
    assert server.refused(background=True, strategy="none")["param"] == "strategy"
    assert server.refused(background="yes")["param"] == "background"
    dry = server.post(background=True, dry_run=True).json()
    assert dry["object"] == "chat.completion.dry_run"


@pytest.mark.parametrize("after", ["x", "-1", "1e3"])
def test_a_wrong_place_is_refused(server: Local, after: str) -> None:
    work_id = submit(server)
    path = f"/v1/background/{work_id}/events"
    assert error_of(server.http.get(path, params={"after": after}))["param"] == "after"
    response = server.http.get(path, headers={"Last-Event-ID": after})
    assert error_of(response)["param"] == "last-event-id"


def test_an_engine_that_was_away_is_asked_again() -> None:
    failures = iter([EngineUnavailable("away")])
    engine = ScriptedEngine(fail=lambda *_: next(failures, None))
    with local(engine, **QUICK) as server:
        work_id = submit(server, seed=5)
        told = ended(server, work_id)
        assert (told["status"], told["turn"]) == ("completed", 2)
        followed = events(server, work_id)
        begun = [e["turn"] for _, e in followed if e.get("status") == "in_progress"]
        assert begun == [1, 2]
        assert said(followed) == told["completion"]["choices"][0]["message"]["content"]


def test_attempts_are_used_up() -> None:
    engine = ScriptedEngine(fail=lambda *_: EngineError("broken"))
    with local(engine, **QUICK) as server:
        told = ended(server, submit(server))
        assert (told["status"], told["turn"]) == ("failed", 3)
        assert told["error"]["code"] == "engine_error"
        assert told["completion"] is None


def test_what_no_attempt_can_mend_fails_at_once() -> None:
    with local(ScriptedEngine(delay=0.2), **QUICK) as server:
        told = ended(server, submit(server, budget={"deadline_s": 0.05}))
        assert (told["status"], told["turn"]) == ("failed", 1)
        assert told["error"]["code"] == "deadline"


@pytest.fixture
async def store() -> Any:
    async with aclosing(SQLiteStore.in_memory()) as opened:
        yield opened


def works_of(store: SQLiteStore) -> Works:
    return Works(store, BackgroundSettings())


async def submitted(works: Works, work_id: str = "bg_1", owner: str = "") -> None:
    about = {"model": "m", "strategy": "single"}
    await works.submit(KIND, work_id, owner, {"messages": []}, about)


async def followed(store: SQLiteStore, after: int = 0) -> bytes:
    works = works_of(store)
    work = await works.find(KIND, "bg_1", "")
    async with aclosing(follow(store, works, ChatForm(), work, after, 0.05)) as frames:
        return b"".join([frame async for frame in frames])


async def test_owners_see_their_own(store: SQLiteStore) -> None:
    works = works_of(store)
    await submitted(works, owner="alice")
    assert (await works.find(KIND, "bg_1", "alice")).status is Status.QUEUED
    with pytest.raises(NotFound):
        await works.find(KIND, "bg_1", "bob")
    with pytest.raises(NotFound):
        await works.find("response", "bg_1", "alice")


async def test_only_one_answer_counts(store: SQLiteStore) -> None:
    works = works_of(store)
    await submitted(works)
    one = await works.begin(KIND, "bg_1")
    two = await works.begin(KIND, "bg_1")
    assert one
    assert two
    assert (one.turn, two.turn) == (1, 2)
    assert not await works.end(one, Status.COMPLETED, answer={"of": 1})
    assert await works.end(two, Status.COMPLETED, answer={"of": 2})
    assert not await works.end(two, Status.FAILED)
    found = await works.find(KIND, "bg_1", "")
    assert (found.status, found.value["answer"]) == (Status.COMPLETED, {"of": 2})
    assert await works.begin(KIND, "bg_1") is None


async def test_words_of_a_worker_that_was_given_up_are_left_out(store: SQLiteStore) -> None:
    works = works_of(store)
    await submitted(works)
    one = await works.begin(KIND, "bg_1")
    await works.append("bg_1", 1, [{"event": {"says": "one"}}])
    two = await works.begin(KIND, "bg_1")
    assert one
    assert two
    await works.append("bg_1", 2, [{"event": {"says": "two"}}])
    await works.append("bg_1", 1, [{"event": {"says": "too late"}}])
    await works.append("bg_1", 2, [{"event": {"says": "three"}}])
    await works.end(two, Status.COMPLETED, answer={})
    text = await followed(store)
    places = [text.index(word) for word in (b"one", b"two", b"three", b'"completed"')]
    assert places == sorted(places)
    assert b"too late" not in text
    assert b"too late" not in await followed(store, after=2)
    assert text.count(b"id: ") == 4
    assert await followed(store, after=5) == DONE


async def test_an_end_that_nobody_told_of_is_seen(store: SQLiteStore) -> None:
    works = works_of(store)
    await submitted(works)
    work = await works.begin(KIND, "bg_1")
    assert work
    await works.append("bg_1", 1, [{"event": {"says": "one"}}])
    ended = {**work.value, "status": "completed", "answer": {}}
    assert await store.records.replace(KIND, work.record, ended, expires_s=60)
    text = await followed(store)
    assert b'id: 2\ndata: {"id":"bg_1"' in text
    assert text.endswith(DONE)


async def test_one_whose_workers_all_died_has_failed(store: SQLiteStore) -> None:
    works = works_of(store)
    await submitted(works)
    for _ in range(2):
        [_] = await store.jobs.claim("background", lease_s=0.01, attempts=2)
        assert await works.begin(KIND, "bg_1")
        time.sleep(0.02)
    assert await store.jobs.claim("background", attempts=2) == []
    found = await works.find(KIND, "bg_1", "")
    assert found.status is Status.FAILED
    assert found.value["error"]["code"] == "attempts_used_up"
