"""The result cache of one server: what is given again, to whom, for how long, at what cost."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from server.engines.scripted import ScriptedEngine
from tests.server.keyed import add_key, ask
from tests.server.local import QUESTION, Local, local
from verifiers.errors import EngineError
from verifiers.types import Chunk, Prompt, Sampling

CHAT = "/v1/chat/completions"
HEADER = "x-forethought-cache"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
NOTHING = {
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "total_tokens": 0,
    "completion_tokens_details": {"reasoning_tokens": 0},
}


class Asked:
    """Seeds that no other test has used: each asks for another answer."""

    def __init__(self) -> None:
        self._last = 0

    def new(self) -> int:
        self._last += 1
        return self._last


@pytest.fixture(scope="module")
def seeds() -> Asked:
    return Asked()


def chunks(server: Local, **body: Any) -> tuple[str, list[dict[str, Any]]]:
    """Send a request that streams; return what its header says of the cache, and its chunks."""
    response = server.post(stream=True, stream_options={"include_usage": True}, **body)
    assert response.status_code == 200, response.text
    *frames, last = [each for each in response.text.split("\n\n") if each and each[0] != ":"]
    assert last == "data: [DONE]"
    return response.headers[HEADER], [json.loads(each.removeprefix("data: ")) for each in frames]


async def together(server: Local, count: int, **body: Any) -> list[httpx.Response]:
    """Send equal requests at the same time; return their answers."""
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
        asyncio.TaskGroup() as group,
    ):
        tasks = [
            group.create_task(client.post(CHAT, json={"messages": QUESTION, **body}))
            for _ in range(count)
        ]
    return [task.result() for task in tasks]


def statuses(responses: Sequence[httpx.Response]) -> list[str]:
    return sorted(response.json()["scaling"]["cache"] for response in responses)


@contextmanager
def posted(server: Local, **body: Any) -> Iterator[None]:
    """Send a request and, at the end of the block, hang up without having read the answer."""
    address, content = urlsplit(server.url), json.dumps({"messages": QUESTION, **body}).encode()
    with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
            b"\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
        )
        yield


def test_an_answer_is_given_again_and_says_what_it_had_cost(server: Local, seeds: Asked) -> None:
    best = {"type": "best_of_n", "n": 3}
    body: dict[str, Any] = {"strategy": best, "seed": seeds.new(), "cache": True}
    made = server.post(**body)
    started = server.engine.log["started"]
    given = server.post(**body)
    assert server.engine.log["started"] == started
    assert (made.headers[HEADER], given.headers[HEADER]) == ("miss", "hit")
    first, second = made.json(), given.json()
    assert first["scaling"]["cache"] == "miss"
    assert "original" not in first["scaling"]
    assert second["choices"] == first["choices"]
    assert second["usage"] == NOTHING
    told = second["scaling"]
    for name in ("answer", "agreement", "scores", "stopped_by", "confidence", "parameters"):
        assert told[name] == first["scaling"][name], name
    assert all(each["calls"] == 0 for each in told["usage"].values())
    assert told["original"] == {
        "id": first["id"],
        "prompt_tokens": first["usage"]["prompt_tokens"],
        "usage": first["scaling"]["usage"],
        "seconds": told["original"]["seconds"],
    }
    assert second["id"] != first["id"] == told["trace_id"]
    text = server.http.get("/metrics").text
    assert 'forethought_cache_lookups_total{outcome="hit"}' in text


def test_what_does_not_ask_is_not_kept(server: Local, seeds: Asked) -> None:
    seed = seeds.new()
    server.post(seed=seed)
    assert "cache" not in server.post(seed=seed, cache=False).json()["scaling"]
    asked = server.post(seed=seed, cache=True)
    assert asked.headers[HEADER] == "miss"
    plain = server.post(seed=seed)
    assert HEADER not in plain.headers
    assert plain.json()["usage"]["completion_tokens"] > 0


def test_what_has_no_seed_is_kept_because_the_client_says_so(server: Local) -> None:
    body: dict[str, Any] = {"cache": True, "temperature": 1.3, "max_completion_tokens": 400}
    first = server.post(**body).json()
    second = server.post(**body).json()
    assert second["scaling"]["cache"] == "hit"
    assert second["choices"] == first["choices"]


def test_an_answer_grows_old(server: Local, seeds: Asked) -> None:
    seed = seeds.new()
    short, long = {"ttl_s": 0.3}, {"ttl_s": 60.0}
    assert server.post(seed=seed, cache=short).headers[HEADER] == "miss"
    assert server.post(seed=seed, cache=long).headers[HEADER] == "hit"
    time.sleep(0.35)
    assert server.post(seed=seed, cache=long).headers[HEADER] == "miss"
    time.sleep(0.35)
    assert server.post(seed=seed, cache=long).headers[HEADER] == "hit"
    assert server.post(seed=seed, cache=short).headers[HEADER] == "miss"


def test_what_the_settings_do_not_allow_is_refused(server: Local) -> None:
    error = server.refused(cache={"ttl_s": 8 * 86_400})
    assert error["param"] == "cache.ttl_s"
    assert server.refused(cache={"ttl_s": 0})["param"] == "cache.ttl_s"
    assert server.refused(cache={"ttl": 5})["param"] == "cache.ttl"
    with local(result_cache={"use": "off"}) as other:
        assert other.refused(cache=True)["param"] == "cache"
        assert other.post(cache=False).status_code == 200


def test_a_server_may_keep_all_that_can_be_repeated() -> None:
    with local(result_cache={"use": "reproducible"}) as server:
        for body, status in (
            ({"seed": 1}, "hit"),
            ({"temperature": 0}, "hit"),
            ({"temperature": 0, "strategy": "self_consistency"}, "hit"),
            ({"temperature": 0.5}, None),
            ({"seed": 1, "cache": False}, None),
        ):
            server.post(**body)
            assert server.post(**body).json()["scaling"].get("cache") == status, body


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"strategy": {"type": "self_consistency", "n": 5}, "n": 3},
        {"logprobs": True, "top_logprobs": 2},
        {"tools": [TOOL], "tool_choice": "required"},
        {"strategy": {"type": "best_of_n", "n": 3}, "include": ["candidates"]},
    ],
    ids=["plain", "choices", "logprobs", "tools", "candidates"],
)
def test_what_was_kept_streams_as_it_was_made(
    server: Local, seeds: Asked, body: dict[str, Any]
) -> None:
    body: dict[str, Any] = {**body, "seed": seeds.new(), "cache": True}
    made, live = chunks(server, **body)
    given, again = chunks(server, **body)
    whole = server.post(**body)
    assert (made, given, whole.headers[HEADER]) == ("miss", "hit", "hit")
    assert contents(again) == contents(live)
    assert whole.json()["choices"] == server.post(**body).json()["choices"]
    first, second = (told[-2]["scaling"] for told in (live, again))
    assert (first["cache"], second["cache"]) == ("miss", "hit")
    assert first.get("candidates") == second.get("candidates")
    assert again[-1]["usage"] == NOTHING
    assert live[-1]["usage"]["completion_tokens"] > 0


def contents(told: list[dict[str, Any]]) -> dict[int, list[Any]]:
    """Join what a stream says, by choice."""
    said: dict[int, list[Any]] = {}
    for choice in (each for chunk in told for each in chunk["choices"]):
        text, calls, entries, finish = said.setdefault(choice["index"], ["", [], [], []])
        said[choice["index"]][0] = text + (choice["delta"].get("content") or "")
        calls += choice["delta"].get("tool_calls") or []
        entries += (choice["logprobs"] or {}).get("content") or []
        finish += [choice["finish_reason"]] if choice["finish_reason"] else []
    return said


def test_what_one_key_had_made_is_given_to_no_other(tmp_path: Any) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    mine, yours = (add_key(store).secret for _ in range(2))
    keys = {"mode": "required"}
    body: dict[str, Any] = {"seed": 1, "cache": True}
    with local(store=store, keys=keys) as server:
        said = [ask(server.url, key, **body).headers[HEADER] for key in (mine, yours, mine, yours)]
        assert said == ["miss", "miss", "hit", "hit"]
    with local(store=store, keys=keys, result_cache={"shared": True}) as server:
        said = [ask(server.url, key, **body).headers[HEADER] for key in (mine, yours)]
        assert said == ["miss", "hit"]


def test_a_hit_is_paid_by_nobody(tmp_path: Any) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    key = add_key(store, requests_per_day=1).secret
    with local(store=store, keys={"mode": "required"}) as server:
        for status in ("miss", "hit", "hit"):
            assert ask(server.url, key, seed=1, cache=True).headers[HEADER] == status
        assert ask(server.url, key, seed=2, cache=True).status_code == 429


async def test_equal_requests_at_the_same_time_are_made_once() -> None:
    with local(ScriptedEngine(delay=0.005)) as server:
        strategy = {"type": "self_consistency", "n": 4}
        answers = await together(server, 20, strategy=strategy, cache=True)
        assert server.engine.log["started"] == 4
        assert statuses(answers) == ["miss", *["shared"] * 19]
        made = [each.json() for each in answers]
        assert len({json.dumps(each["choices"]) for each in made}) == 1
        generated = sum(each["usage"]["completion_tokens"] for each in made)
        assert generated == server.engine.log["tokens"]
        assert len({each["id"] for each in made}) == 20


async def test_streams_and_whole_answers_share() -> None:
    with local(ScriptedEngine(delay=0.005)) as server:
        first = asyncio.create_task(asyncio.to_thread(chunks, server, seed=1, cache=True))
        await asyncio.to_thread(server.wait_until, lambda: server.engine.running == 1)
        (whole,) = await together(server, 1, seed=1, cache=True)
        header, told = await first
        assert header == "miss"
        assert statuses([whole]) == ["shared"]
        assert contents(told)[0][0] == whole.json()["choices"][0]["message"]["content"]
        assert len([each for each in told if each["choices"]]) > 5, "it streamed as it was made"
        assert server.engine.log["started"] == 1


async def test_what_others_wait_for_goes_on_when_the_first_one_leaves() -> None:
    with local(ScriptedEngine(delay=0.01)) as server:
        with posted(server, seed=1, cache=True):
            await asyncio.to_thread(server.wait_until, lambda: server.engine.running == 1)
            others = asyncio.create_task(together(server, 2, seed=1, cache=True))
            await asyncio.sleep(0.1)
        assert statuses(await others) == ["shared", "shared"]
        assert server.engine.log["started"] == server.engine.log["finished"] == 1


async def test_one_who_waits_may_leave() -> None:
    with local(ScriptedEngine(delay=0.01)) as server:
        first = asyncio.create_task(together(server, 1, seed=1, cache=True))
        await asyncio.to_thread(server.wait_until, lambda: server.engine.running == 1)
        with posted(server, seed=1, cache=True, stream=True):
            await asyncio.sleep(0.1)
        assert statuses(await first) == ["miss"]
        assert server.engine.log["aborted"] == 0


async def test_what_nobody_waits_for_is_stopped() -> None:
    with local(ScriptedEngine(delay=0.05)) as server:
        with posted(server, seed=1, cache=True), posted(server, seed=1, cache=True):
            await asyncio.to_thread(server.wait_until, lambda: server.engine.running == 1)
            await asyncio.sleep(0.1)
        server.wait_until(lambda: server.engine.log["aborted"] == 1, seconds=2)
        server.engine.delay = 0
        began = time.monotonic()
        assert server.post(seed=1, cache=True).headers[HEADER] == "miss"
        assert time.monotonic() - began < 2, "nothing was left behind"


class Failing(ScriptedEngine):
    """Fails so many times, a while after it was asked."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.asked = times, 0

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        self.asked += 1
        await asyncio.sleep(0.2)
        if self.asked <= self.times:
            raise EngineError("it broke")
        async for chunk in super().generate(prompt, sampling, n):
            yield chunk


async def test_one_of_those_who_wait_takes_over_where_it_fails() -> None:
    engine = Failing(1)
    with local(engine) as server:
        answers = await together(server, 6, seed=1, cache=True)
        failed = [each for each in answers if each.status_code != 200]
        assert [each.status_code for each in failed] == [502]
        rest = [each for each in answers if each.status_code == 200]
        assert statuses(rest) == ["miss", *["shared"] * 4]
        assert engine.asked == 2


async def test_where_it_fails_again_each_makes_its_own() -> None:
    engine = Failing(99)
    with local(engine) as server:
        answers = await together(server, 5, seed=1, cache=True)
        assert [each.status_code for each in answers] == [502] * 5
        assert engine.asked == 5


async def test_what_a_deadline_has_cut_is_shared_and_not_kept() -> None:
    with local(ScriptedEngine(delay=0.05)) as server:
        voted: dict[str, Any] = {"strategy": "self_consistency", "budget": {"deadline_s": 0.6}}
        body: dict[str, Any] = {"seed": 1, "cache": True, **voted}
        answers = await together(server, 2, **body)
        assert statuses(answers) == ["miss", "shared"], "both get what the deadline has left"
        assert {each.json()["scaling"]["stopped_by"] for each in answers} == {"deadline"}
        assert server.post(**body).headers[HEADER] == "miss", "it is not kept"


def test_answers_that_bad_luck_has_changed_are_not_kept() -> None:
    to_lose = [EngineError("lost")]

    def fail(prompt: Prompt, index: int) -> Exception | None:
        return to_lose.pop() if to_lose else None

    voted = {"type": "self_consistency", "n": 4}
    body: dict[str, Any] = {"strategy": voted, "seed": 1, "cache": True}
    with local(ScriptedEngine(fail=fail)) as server:
        for status in ("miss", "miss", "hit"):
            assert server.post(**body).headers[HEADER] == status


def test_long_answers_are_not_kept() -> None:
    with local(result_cache={"max_bytes": 1024}) as server:
        short: dict[str, Any] = {"seed": 1, "cache": True, "max_completion_tokens": 3}
        long = {**short, "max_completion_tokens": 100, "logprobs": True, "top_logprobs": 5}
        assert [server.post(**short).headers[HEADER] for _ in range(2)] == ["miss", "hit"]
        assert [server.post(**long).headers[HEADER] for _ in range(2)] == ["miss", "miss"]


async def test_without_the_store_it_is_made_and_said_so() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        store = f"redis://127.0.0.1:{closed.getsockname()[1]}"
        with local(ScriptedEngine(delay=0.005), store=store) as server:
            began = time.monotonic()
            answers = await together(server, 3, seed=1, cache=True)
            assert statuses(answers) == ["shared", "shared", "unavailable"]
            assert server.engine.log["started"] == 1
            assert server.post(seed=1, cache=True).headers[HEADER] == "unavailable"
            assert time.monotonic() - began < 8


async def test_a_server_that_ends_leaves_no_flight() -> None:
    with local(ScriptedEngine(delay=0.05)) as server:
        waiting = asyncio.create_task(together(server, 2, seed=1, cache=True))
        await asyncio.to_thread(server.wait_until, lambda: server.engine.running == 1)
        flight = server.state.flights
        assert flight.count == 1
        waiting.cancel()
        server.wait_until(lambda: flight.count == 0, seconds=2)
        assert server.engine.running == 0
