"""The remote scorer before a real server: three shapes, bad answers, absence and return."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.responses import Response

from strategies.best_of_n import BestOfN
from tests.server.local import local
from tests.strategies.harness import Bench
from tests.verifiers.scoring_server import running
from verifiers.errors import VerifierError, VerifierUnavailable
from verifiers.remote import Remote
from verifiers.types import Candidate, JSONObject, Message, Prompt, Score, Task

TASK = Task(Prompt(({"role": "system", "content": "S"}, {"role": "user", "content": "Q"})))
CALL: JSONObject = {
    "id": "1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"x": 1}'},
}


def candidates(*texts: str) -> list[Candidate]:
    return [Candidate(str(place), text) for place, text in enumerate(texts)]


def verify(body: JSONObject) -> JSONObject:
    """Score by length, in another order than asked; abstain where there is nothing."""
    data: list[JSONObject] = [
        {
            "index": index,
            "score": len(each["content"]) / 10 if each["content"] else None,
            "steps": [0.5] * len(each["content"]),
            "abstained": not each["content"],
        }
        for index, each in enumerate(body["candidates"])
    ]
    return {"data": data[::-1], "usage": {}}


def score(body: JSONObject) -> JSONObject:
    texts = body["text_2"]
    return {"data": [{"index": i, "score": len(text) / 10} for i, text in enumerate(texts)]}


def rerank(body: JSONObject) -> JSONObject:
    texts = body["documents"]
    results = [{"index": i, "relevance_score": len(text) / 10} for i, text in enumerate(texts)]
    return {"results": sorted(results, key=lambda each: -each["relevance_score"])}


@asynccontextmanager
async def started(**settings: Any) -> AsyncIterator[Remote]:
    remote = Remote(**settings)
    await remote.start()
    try:
        yield remote
    finally:
        await remote.aclose()


async def ask(remote: Remote, *texts: str) -> list[Score]:
    return await remote.score(TASK, candidates(*texts), None)  # type: ignore[arg-type]


async def test_our_own_shape() -> None:
    with running(verify) as stub:
        async with started(url=f"{stub.url}/v1/verify", verifier="orm", api_key="k") as remote:
            scores = await ask(remote, "a", "", "abc")
    assert scores == [
        Score(0.1, (0.5,)),
        Score(0.0, abstained=True),
        Score(0.3, (0.5, 0.5, 0.5)),
    ]
    assert stub.asked[0]["messages"] == list(TASK.prompt.messages)
    assert stub.asked[0]["verifier"] == "orm"
    assert (stub.paths, stub.keys) == (["/v1/verify"], ["Bearer k"])


async def test_tool_calls_are_sent_along() -> None:
    with running(verify) as stub:
        async with started(url=stub.url) as remote:
            call = Candidate("0", message=Message("hm", tool_calls=(CALL,)))
            await remote.score(TASK, [call], None)  # type: ignore[arg-type]
    (sent,) = stub.asked[0]["candidates"]
    assert sent == {"content": "hm", "finish_reason": None, "tool_calls": [CALL]}


@pytest.mark.parametrize(("shape", "answer"), [("score", score), ("rerank", rerank)])
async def test_the_shapes_of_others(shape: str, answer: Any) -> None:
    with running(answer) as stub:
        async with started(url=stub.url, shape=shape, model="m") as remote:
            scores = await ask(remote, "ab", "a", "abc")
    assert [each.value for each in scores] == [0.2, 0.1, 0.3]
    query = stub.asked[0]["text_1" if shape == "score" else "query"]
    assert query == "system: S\n\nuser: Q"
    assert stub.asked[0]["model"] == "m"


async def test_many_candidates_go_in_batches_and_come_back_in_order() -> None:
    texts = ["x" * (place % 10) for place in range(50)]
    with running(score) as stub:
        async with started(url=stub.url, shape="score", batch_size=8) as remote:
            scores = await ask(remote, *texts)
            one_by_one = [(await ask(remote, text))[0] for text in texts[:5]]
    assert [each.value for each in scores] == [len(text) / 10 for text in texts]
    assert one_by_one == scores[:5]
    assert max(len(body["text_2"]) for body in stub.asked) == 8


WRONG = [
    b"not json",
    b"[]",
    b'{"data": []}',
    b'{"data": [{"index": 0, "score": 1}, {"index": 0, "score": 1}]}',
    b'{"data": [{"index": 0, "score": 1}, {"index": 2, "score": 1}]}',
    b'{"data": [{"index": 0, "score": 1}, {"index": 1, "score": NaN}]}',
    b'{"data": [{"index": 0, "score": 1}, {"index": 1, "score": 1e999}]}',
    b'{"data": [{"index": 0, "score": 1}, {"index": 1, "score": "0.5"}]}',
    b'{"data": [{"index": 0, "score": 1}, {"index": 1, "score": true}]}',
    b'{"data": [{"index": 0, "score": 1}, {"index": 1}]}',
    b'{"data": "' + b"x" * 5000 + b'"}',
]


@pytest.mark.parametrize("body", WRONG)
async def test_what_is_no_answer_is_an_error_and_no_score(body: bytes) -> None:
    with running(score) as stub:
        async with started(url=stub.url, shape="score", answer_bytes=4096) as remote:
            stub.faults.append(Response(body, media_type="application/json"))
            with pytest.raises(VerifierError) as failed:
                await ask(remote, "a", "b")
            assert not isinstance(failed.value, VerifierUnavailable)
            assert len(failed.value.message) < 300
            assert [each.value for each in await ask(remote, "a")] == [0.1]


async def test_nothing_is_decompressed() -> None:
    bomb = gzip.compress(json.dumps({"data": [{"index": 0, "score": 1}]}).encode())
    with running(score) as stub:
        stub.faults.append(Response(bomb, headers={"content-encoding": "gzip"}))
        async with started(url=stub.url, shape="score") as remote:
            with pytest.raises(VerifierError):
                await ask(remote, "a")


@pytest.mark.parametrize(
    ("status", "away"),
    [(500, False), (400, False), (401, False), (404, False), (429, True), (503, True)],
)
async def test_statuses(status: int, *, away: bool) -> None:
    with running(score) as stub:
        stub.faults.append(Response("secret words", status))
        async with started(url=stub.url, shape="score") as remote:
            with pytest.raises(VerifierError) as failed:
                await ask(remote, "a")
    assert isinstance(failed.value, VerifierUnavailable) == away
    assert "secret" not in failed.value.message


async def test_redirects_are_not_followed() -> None:
    with running(score) as stub, running(score) as elsewhere:
        stub.faults.append(Response(status_code=307, headers={"location": elsewhere.url}))
        async with started(url=stub.url, shape="score") as remote:
            with pytest.raises(VerifierError, match="redirects"):
                await ask(remote, "a")
    assert not elsewhere.asked


async def test_a_slow_server_is_left_in_time() -> None:
    with running(score) as stub:
        stub.faults.append(5.0)
        async with started(url=stub.url, shape="score", timeout_s=0.2) as remote:
            start = time.monotonic()
            with pytest.raises(VerifierUnavailable, match=r"0\.2 s"):
                await ask(remote, "a")
            assert time.monotonic() - start < 2
            assert len(await ask(remote, "a")) == 1


async def test_it_heals_when_the_server_comes_back() -> None:
    with running(score) as stub:
        port = stub.port
    settings: dict[str, Any] = {"url": f"http://127.0.0.1:{port}", "shape": "score"}
    async with started(**settings, retries=1) as remote:
        with pytest.raises(VerifierUnavailable):
            await ask(remote, "a")
        with pytest.raises(VerifierUnavailable):
            await remote.check()
        with running(score, port):
            await remote.check()
            assert [each.value for each in await ask(remote, "a")] == [0.1]
        with pytest.raises(VerifierUnavailable):
            await remote.check()


async def test_a_connection_that_cannot_be_had_is_tried_again() -> None:
    with running(score) as stub:
        port = stub.port
    async with started(url=f"http://127.0.0.1:{port}", shape="score", retries=6) as remote:
        asked = asyncio.create_task(ask(remote, "a"))
        await asyncio.sleep(0.15)
        with running(score, port):
            assert [each.value for each in await asked] == [0.1]


async def test_cancelling_hangs_up() -> None:
    with running(score) as stub:
        stub.faults.append(30.0)
        async with started(url=stub.url, shape="score") as remote:
            asked = asyncio.create_task(ask(remote, "a"))
            await asyncio.sleep(0.1)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            assert len(await ask(remote, "a")) == 1


async def test_check_finds_a_server_that_answers_nonsense() -> None:
    with running(lambda _: {"data": []}) as stub:
        async with started(url=stub.url, shape="score") as remote:
            with pytest.raises(VerifierUnavailable):
                await remote.check()


async def test_best_of_n_by_a_remote_scorer() -> None:
    with running(verify) as stub:
        async with started(url=stub.url) as remote:
            bench = Bench(verifier=remote)
            outcome = await bench.run(BestOfN(n=4))
    longest = max(outcome.candidates, key=lambda each: len(each.content))
    assert len(outcome.choices[0].content) == len(longest.content)


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(Remote(url="http://h", api_key="secret"))
    with pytest.raises(ValidationError):
        Remote(url="file:///etc/passwd")


def test_a_request_cannot_say_where_to_ask() -> None:
    with running(verify) as stub:
        configured = {"far": {"type": "remote", "url": stub.url}}
        with local(verifiers=configured) as server:
            error = server.refused(
                strategy="best_of_n", verifier={"name": "far", "url": "http://127.0.0.1:1"}
            )
            assert error["param"] == "verifier.url"
    assert not stub.asked
