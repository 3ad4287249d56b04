"""Quotas over real sockets: exact for any number of clients and replicas, and free again."""

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from server.convert import take_order
from server.engines.scripted import ScriptedEngine
from server.identity import Identity, Quota
from server.keys.registry import Created
from server.quotas import corrections
from server.rate_limits import DAY_S, MINUTE_S, duration, windows
from server.store.limits import Level, Verdict
from server.wire import ChatRequest
from strategies.budget import Stage
from tests.server.keyed import add_key, ask, bearer
from tests.server.local import QUESTION, Local, error_of, local, make_state
from tests.server.serving import serving
from tests.store.serving import RedisServer
from verifiers.errors import EngineError
from verifiers.types import Prompt, Sampling, Usage

TEN_WORDS = "one two three four five six seven eight nine \\boxed{42}"
"""Ten tokens."""
QUOTA = {"requests_per_minute": 100}
ASKED = 5
"""Tokens of the question, as the scripted engine counts: words."""


def ten_words(prompt: Prompt, sampling: Sampling, index: int) -> str:
    return TEN_WORDS


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'store.sqlite'}"
    server: RedisServer = request.getfixturevalue("redis_server")
    server.empty()
    return server.url


@contextmanager
def replicas(store: str, count: int = 2, delay: float = 0.0, **keys: Any) -> Iterator[list[Local]]:
    """Serve with one store, as several machines do."""
    settings = {"mode": "required", "cache_s": 60, **keys}
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                local(ScriptedEngine(ten_words, delay=delay), store=store, keys=settings)
            )
            for _ in range(count)
        ]


async def at_once(
    servers: list[Local], key: str, count: int = 50, **body: Any
) -> list[httpx.Response]:
    """Send requests of so many of OpenAI's clients at the same moment, in turn to each server."""

    async def one(client: openai.AsyncOpenAI) -> httpx.Response:
        try:
            raw = await client.chat.completions.with_raw_response.create(
                model="scripted",
                messages=QUESTION,  # type: ignore[arg-type]
                extra_body=body,
            )
        except openai.RateLimitError as error:
            return error.response
        return raw.http_response

    async with asyncio.TaskGroup() as group:
        clients = [
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
            for server in servers
        ]
        tasks = [group.create_task(one(clients[i % len(clients)])) for i in range(count)]
    for client in clients:
        await client.close()
    return [task.result() for task in tasks]


def statuses(responses: list[httpx.Response]) -> Counter[int]:
    return Counter(response.status_code for response in responses)


def remaining(server: Local, key: str, what: str = "tokens") -> int:
    response = server.http.get("/v1/models", headers=bearer(key))
    return int(response.headers[f"x-ratelimit-remaining-{what}"])


def test_requests_are_counted_exactly(store: str) -> None:
    key = add_key(store, requests_per_minute=20, requests_per_day=1000).secret
    with replicas(store) as servers:
        responses = asyncio.run(at_once(servers, key))
        assert statuses(responses) == {200: 20, 429: 30}
        assert sum(server.engine.log["started"] for server in servers) == 20
        refused = next(each for each in responses if each.status_code == 429)
        assert error_of(refused)["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        for each in responses:
            assert each.headers["x-ratelimit-limit-requests"] == "20"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.headers["x-ratelimit-reset-requests"].endswith("s")
        assert "x-ratelimit-limit-tokens" not in refused.headers
        other = add_key(store, requests_per_minute=1).secret
        assert ask(servers[0].url, other).status_code == 200, "quotas are each key's own"


def test_tokens_are_charged_at_the_worst_case_and_corrected(store: str) -> None:
    key = add_key(store, tokens_per_minute=320).secret
    with replicas(store, delay=0.3) as servers:  # three seconds each: all are there at once
        responses = asyncio.run(at_once(servers, key, max_completion_tokens=64))
        assert statuses(responses) == {200: 5, 429: 45}  # 320 / 64
        totals = [r.json()["usage"]["total_tokens"] for r in responses if r.status_code == 200]
        assert totals == [ASKED + 10] * 5
        assert remaining(servers[0], key) == 320 - sum(totals)
        answered = ask(servers[1].url, key, max_completion_tokens=64)
        assert answered.status_code == 200
        # The headers of a whole answer know already what it took.
        left = int(answered.headers["x-ratelimit-remaining-tokens"])
        assert left == remaining(servers[0], key) == 320 - 6 * (ASKED + 10)


def test_what_failed_or_was_hung_up_on_costs_what_it_generated(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    key = add_key(store, tokens_per_minute=100_000).secret
    settings = {"mode": "required"}

    def fail(prompt: Prompt, index: int) -> Exception | None:
        return EngineError("broken") if "break" in str(prompt.messages) else None

    engine = ScriptedEngine(ten_words, delay=0.05, fail=fail)
    with local(engine, store=store, keys=settings) as server:
        broken = [{"role": "user", "content": "break"}]
        assert ask(server.url, key, messages=broken).status_code == 502
        assert remaining(server, key) == 100_000
        body = {"messages": QUESTION, "stream": True}
        with server.http.stream(
            "POST", "/v1/chat/completions", json=body, headers=bearer(key)
        ) as response:
            lines = response.iter_lines()
            while "three" not in next(lines):
                pass
            assert remaining(server, key) < 100_000 - 1000, "the worst case is charged meanwhile"
        server.wait_until(lambda: engine.log["aborted"] == 1)
        spent = engine.log["tokens"]
        assert 3 <= spent < 10
        server.wait_until(lambda: remaining(server, key) == 100_000 - spent)


def test_judging_is_paid_too(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    key = add_key(store, tokens_per_minute=100_000, requests_per_minute=2).secret
    verifiers = {"judge": {"type": "judge"}}
    with local(store=store, keys={"mode": "required"}, verifiers=verifiers) as server:
        replies = [{"content": each} for each in ("42", "41")]
        body = {"messages": QUESTION, "candidates": replies, "verifier": "judge"}
        answered = server.http.post("/v1/verify", json=body, headers=bearer(key))
        assert answered.status_code == 200, answered.text
        spent = answered.json()["usage"]["total_tokens"]
        assert spent > 0
        assert remaining(server, key) == 100_000 - spent
        assert server.http.post("/v1/verify", json=body, headers=bearer(key)).status_code == 200
        assert server.http.post("/v1/verify", json=body, headers=bearer(key)).status_code == 429


def test_samples_at_once_are_held_while_they_run(store: str) -> None:
    key = add_key(store, samples_at_once=8).secret
    with replicas(store, delay=0.2) as servers:
        best = {"type": "best_of_n", "n": 4}
        responses = asyncio.run(at_once(servers, key, count=6, strategy=best))
        assert statuses(responses) == {200: 2, 429: 4}
        told = error_of(next(each for each in responses if each.status_code == 429))
        assert told["message"] == "this key allows 8 samples at once: others are running"
        assert statuses(asyncio.run(at_once(servers, key, count=2, strategy=best))) == {200: 2}


def test_a_lease_is_renewed_while_the_work_lasts(store: str) -> None:
    key = add_key(store, samples_at_once=1).secret
    with replicas(store, 1, delay=0.25, lease_s=1) as [server]:
        thread = threading.Thread(target=ask, args=(server.url, key))
        thread.start()
        server.wait_until(lambda: server.engine.running == 1)
        time.sleep(1.8)  # far over the lease
        assert ask(server.url, key).status_code == 429
        thread.join()
        assert ask(server.url, key).status_code == 200


@pytest.mark.slow
def test_what_a_killed_replica_held_is_free_after_its_lease(store: str) -> None:
    key = add_key(store, samples_at_once=1).secret
    settings = {"keys__mode": "required", "keys__lease_s": "2", "store": store}
    with (
        serving(**settings, delay_s="1") as doomed,
        replicas(store, 1, lease_s=2) as [other],
    ):
        body = {"messages": QUESTION, "stream": True}
        with httpx.stream(
            "POST", f"{doomed.url}/v1/chat/completions", json=body, headers=bearer(key)
        ) as response:
            lines = response.iter_lines()  # kept, or the connection is closed
            assert "assistant" in next(lines)
            assert ask(other.url, key).status_code == 429
            doomed.process.kill()
            killed = time.monotonic()
            assert ask(other.url, key).status_code == 429, "a lease is not over at once"
            other.wait_until(lambda: ask(other.url, key).status_code == 200)
            assert time.monotonic() - killed < 3.5


def test_a_key_has_a_largest_budget(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    for quota in ({"max_tokens": 100}, {"tokens_per_minute": 100, "max_tokens": 1000}):
        key = add_key(store, **quota).secret
        with replicas(store, 1) as [server]:
            refused = ask(server.url, key, budget={"max_tokens": 101})
            assert refused.status_code == 403
            assert error_of(refused)["param"] == "budget.max_tokens"
            assert "at most 100" in error_of(refused)["message"]
            # Eight times 1,024 tokens are over it: the default budget is cut, not the request.
            many = ask(server.url, key, strategy="best_of_n", dry_run=True).json()
            assert many["budget"]["max_tokens"] == 100
            assert ask(server.url, key, strategy="best_of_n").status_code == 200


def test_a_key_may_amplify_so_much(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    key = add_key(store, max_samples=4).secret
    careful = add_key(store, samples_at_once=4).secret
    with replicas(store, 1) as [server]:
        for each in (key, careful):
            refused = ask(server.url, each, strategy={"type": "best_of_n", "n": 5})
            assert refused.status_code == 403
            assert error_of(refused)["param"] == "strategy.n"
            assert ask(server.url, each, n=5).status_code == 403
            best = {"type": "best_of_n", "n": 4}
            assert ask(server.url, each, strategy=best).status_code == 200
        fewer = ask(server.url, key, strategy="best_of_n", budget={"max_calls": 4})
        assert fewer.status_code == 200
        assert server.engine.log["started"] == 4 + 4 + 4


def test_while_the_store_is_away_only_keys_without_quotas_work(
    redis_server: RedisServer,
) -> None:
    redis_server.empty()
    free, counted = (add_key(redis_server.url, **quota).secret for quota in ({}, QUOTA))
    with replicas(redis_server.url, 1) as [server]:
        for key in (free, counted):
            assert ask(server.url, key).status_code == 200
        redis_server.kill()
        assert ask(server.url, free).status_code == 200
        refused = ask(server.url, counted)
        assert refused.status_code == 503
        assert "x-ratelimit-limit-requests" not in refused.headers
        redis_server.start()
        server.wait_until(lambda: ask(server.url, counted).status_code == 200, seconds=10)


def test_without_quotas_there_are_no_headers(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    with replicas(store, 1) as [server]:
        headers = ask(server.url, add_key(store).secret).headers
    assert not [name for name in headers if name.startswith("x-ratelimit")]


def test_prompts_of_two_keys_share_no_prefix_cache(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    made: list[Created] = [add_key(store), add_key(store)]
    seen: list[str | None] = []

    def script(prompt: Prompt, sampling: Sampling, index: int) -> str:
        seen.append(prompt.cache_salt)
        return TEN_WORDS

    def salts(**keys: Any) -> list[str | None]:
        seen.clear()
        with local(
            ScriptedEngine(script), store=store, keys={"mode": "required", **keys}
        ) as server:
            for each in (made[0], made[1], made[0]):
                answered = ask(server.url, each.secret, strategy="universal_self_consistency")
                assert answered.status_code == 200
        return seen

    first, *_ = found = salts()
    assert first
    assert len(set(found)) == 2
    each = len(found) // 3
    assert found[:each] == found[-each:] == [first] * each
    assert not [salt for salt in found if salt and (made[0].key.digest in salt or "/" in salt)]
    assert set(salts(cache_salt=False)) == {None}


async def test_nothing_is_given_back_to_a_window_that_has_ended() -> None:
    """The next window would take it for its own, and grant more than its limit."""
    known = windows(Identity("a", quota=Quota(tokens_per_minute=100, tokens_per_day=1000)))
    charges = [window.charge(80) for window in known]
    verdict = Verdict(True, (Level(100, 20, 30.0), Level(1000, 920, 3000.0)))
    wire = ChatRequest.model_validate({"messages": QUESTION})
    order = await take_order(wire, make_state(ScriptedEngine()), None, time.monotonic())
    usage = order.request.ledger.usage
    usage[Stage.SAMPLE] += Usage(completion_tokens=50)
    for elapsed, expected in ((29.0, [-30, -30]), (31.0, [-30]), (3001.0, [])):
        changes = corrections(order, known, charges, verdict, elapsed)
        assert [each.amount for each in changes] == expected
    usage[Stage.VERIFY] += Usage(completion_tokens=60)  # more than foreseen: told wherever it is
    changes = corrections(order, known, charges, verdict, 31.0)
    assert [each.amount for each in changes] == [30, 30]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (0.2, "1s"),
        (59, "59s"),
        (59.5, "1m0s"),
        (60, "1m0s"),
        (3600, "1h0m0s"),
        (86_399, "23h59m59s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, written: str) -> None:
    assert duration(seconds) == written


def test_windows_are_named_by_key_and_kind() -> None:
    quota = Quota(1, 2, 16, 17)
    found = {window.charge(0).name: window for window in windows(Identity("ab", quota=quota))}
    assert {name: (each.limit, each.seconds) for name, each in found.items()} == {
        "key:ab:requests:60": (1, MINUTE_S),
        "key:ab:requests:86400": (2, DAY_S),
        "key:ab:tokens:60": (16, MINUTE_S),
        "key:ab:tokens:86400": (17, DAY_S),
    }


def test_a_client_that_breaks_off_its_body_costs_nothing(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    key = add_key(store, **QUOTA).secret
    with replicas(store, 1) as [server]:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port)) as raw:
            raw.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
                b"\r\nAuthorization: Bearer %b\r\nContent-Length: 1000\r\n\r\n{" % key.encode()
            )
        assert ask(server.url, key, strategy="nope").status_code == 400
        assert remaining(server, key, "requests") == 100
