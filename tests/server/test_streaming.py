"""Streams as bytes on the wire: order, heartbeats, progress, logprobs, tools, hang-ups."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.admission import Admission
from tests.server.local import QUESTION, Local, local
from verifiers.types import Chunk, Message, Prompt, Sampling, Usage

THINKER = Message("The answer is \\boxed{42}.", "Six sevens are forty-two. ")
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
NORMAL = 0.005


def lines(server: Local, **body: Any) -> Iterator[str]:
    body = {"messages": QUESTION, "stream": True, **body}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield from (line for line in response.iter_lines() if line)


def chunks(server: Local, **body: Any) -> list[dict[str, Any]]:
    *frames, last = [line for line in lines(server, **body) if not line.startswith(":")]
    assert last == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@contextmanager
def posted(server: Local, **body: Any) -> Iterator[socket.socket]:
    """Send a request and, at the end of the block, hang up without having read the answer."""
    address, content = urlsplit(server.url), json.dumps({"messages": QUESTION, **body}).encode()
    with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
            b"\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
        )
        yield raw


def joined(told: list[dict[str, Any]], index: int = 0, key: str = "content") -> str:
    choices = [choice for chunk in told for choice in chunk["choices"]]
    return "".join(each["delta"].get(key) or "" for each in choices if each["index"] == index)


def test_the_order_of_a_stream(server: Local) -> None:
    told = chunks(server, seed=3, stream_options={"include_usage": True})
    whole = server.post(seed=3).json()
    assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert joined(told) == whole["choices"][0]["message"]["content"]
    *pieces, finish, usage = told
    assert all(not choice["finish_reason"] for chunk in pieces for choice in chunk["choices"])
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert finish["scaling"]["answer"] == whole["scaling"]["answer"]
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in told}) == 1
    assert "usage" not in chunks(server, seed=3)[-1]


def test_single_streams_token_by_token() -> None:
    with local(ScriptedEngine(delay=0.01)) as server:
        pieces = [chunk["choices"][0]["delta"].get("content") for chunk in chunks(server)]
        tokens = server.engine.log["tokens"]
    assert len([piece for piece in pieces if piece]) >= 0.8 * tokens


@pytest.mark.parametrize("strategy", ["self_consistency", "best_of_n", "weighted_vote"])
@pytest.mark.parametrize("n", [1, 3])
def test_what_a_strategy_streams_is_what_it_answers(server: Local, strategy: str, n: int) -> None:
    body = {"strategy": strategy, "seed": 1, "n": n}
    told, whole = chunks(server, **body), server.post(**body).json()
    for choice in whole["choices"]:
        assert joined(told, choice["index"]) == choice["message"]["content"]
    ends = [each for chunk in told for each in chunk["choices"] if each["finish_reason"]]
    assert [end["index"] for end in ends] == list(range(n))
    for key in ("answer", "agreement", "scores", "usage"):
        assert told[-1]["scaling"][key] == whole["scaling"][key]


def test_several_answers_of_single_stream_side_by_side() -> None:
    with local(ScriptedEngine(delay=NORMAL)) as server:
        told, whole = chunks(server, n=3, seed=2), server.post(n=3, seed=2).json()
    indexes = [chunk["choices"][0]["index"] for chunk in told]
    assert indexes != sorted(indexes)
    for choice in whole["choices"]:
        assert joined(told, choice["index"]) == choice["message"]["content"]


def test_heartbeats_while_there_is_nothing_to_say() -> None:
    with local(ScriptedEngine(delay=0.05), heartbeat_s=0.1) as server:
        # Samples end one after the other: events that the client did not ask for are no news.
        got = []
        start = time.monotonic()
        for line in lines(server, strategy={"type": "self_consistency", "n": 4}, max_tokens=20):
            got.append((time.monotonic() - start, line))
    beats = [at for at, line in got if line == ": heartbeat"]
    answer = next(at for at, line in got if '"content":"' in line and '"content":""' not in line)
    assert len([at for at in beats if at < answer]) >= 4
    assert max(b - a for (a, _), (b, _) in pairwise(got)) < 0.4


def test_progress_as_events(server: Local) -> None:
    body = {"strategy": {"type": "best_of_n", "n": 4}, "stream_options": {"include_progress": True}}
    told = chunks(server, **body)
    events = [chunk["scaling"]["event"] for chunk in told if "event" in chunk.get("scaling", {})]
    assert [event["index"] for event in events] == list(range(len(events)))
    kinds = [event["kind"] for event in events]
    assert kinds == ["sampled"] * 4 + ["scored"] * 4 + ["finished"]
    assert all(not chunk["choices"] for chunk in told if "event" in chunk.get("scaling", {}))
    told = chunks(server, strategy="best_of_n")
    assert all(chunk["choices"] for chunk in told)


def test_progress_as_text(server: Local) -> None:
    body = {
        "strategy": {"type": "self_consistency", "n": 4},
        "stream_options": {"include_progress": "text"},
        "seed": 1,
    }
    told = chunks(server, **body)
    thought = joined(told, key="reasoning_content")
    assert "4 samples," in thought
    assert " agree on " in thought
    assert thought == joined(told, key="reasoning")
    assert (
        joined(told)
        == server.post(**body | {"stream_options": None}).json()["choices"][0]["message"]["content"]
    )


def test_reasoning_streams_under_both_names() -> None:
    with local(ScriptedEngine(lambda prompt, sampling, index: THINKER, delay=NORMAL)) as server:
        told = chunks(server)
        assert joined(told, key="reasoning_content") == THINKER.reasoning
        assert joined(told, key="reasoning") == THINKER.reasoning
        assert joined(told) == THINKER.content
        told = chunks(server, include_reasoning=False)
        assert joined(told, key="reasoning") == ""
        assert joined(told) == THINKER.content
        message = server.post().json()["choices"][0]["message"]
        assert message["reasoning"] == message["reasoning_content"] == THINKER.reasoning


def test_tool_calls_come_whole_at_the_end() -> None:
    def script(prompt: Prompt, sampling: Sampling, index: int) -> Message:
        return Message("Let me look. ", tool_calls=(CALL,))

    with local(ScriptedEngine(script, delay=NORMAL)) as server:
        for strategy in ("single", "self_consistency"):
            told = chunks(server, tools=[TOOL], strategy=strategy)
            deltas = [choice["delta"] for chunk in told for choice in chunk["choices"]]
            [calls] = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
            assert calls == [{"index": 0, **CALL}]
            assert told[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_logprobs_stream_with_their_tokens(server: Local) -> None:
    told = chunks(server, logprobs=True, top_logprobs=2, seed=1)
    entries = [
        entry
        for chunk in told
        for choice in chunk["choices"]
        if choice["logprobs"]
        for entry in choice["logprobs"]["content"]
    ]
    assert "".join(entry["token"] for entry in entries) == joined(told)
    assert {len(entry["top_logprobs"]) for entry in entries} == {2}


STRATEGIES = ("single", "best_of_n", "self_consistency", "weighted_vote")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_hang_up_stops_the_work(strategy: str, stream: bool) -> None:
    delay = 0.02
    engine = ScriptedEngine(lambda prompt, sampling, index: "word " * 1000, delay=delay)
    with local(engine) as server:
        with posted(server, strategy=strategy, stream=stream):
            server.wait_until(lambda: engine.log["tokens"] > 10)
            assert engine.running > 0
        took = server.wait_until(lambda: engine.running == 0)
        tokens = engine.log["tokens"]
        time.sleep(10 * delay)
        assert engine.log["tokens"] == tokens
        assert took < 5 * delay
        assert server.state.service.admission.running == 0
        assert 'status="499"' in server.http.get("/metrics").text


def test_a_hang_up_in_the_queue_leaves_it() -> None:
    admission = Admission(slots=1)
    engine = ScriptedEngine(lambda prompt, sampling, index: "word " * 50, delay=0.02)
    with local(engine, admission=admission) as server:
        with posted(server, stream=True):
            server.wait_until(lambda: engine.running == 1)
            with posted(server):
                server.wait_until(lambda: admission.queued == 1)
            server.wait_until(lambda: admission.queued == 0)
            assert engine.running == 1
        assert engine.log["started"] == 1


class Faulty(ScriptedEngine):
    """Breaks in a way that no error of ours stands for, in the middle of a reply."""

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        yield Chunk(0, text="so far", usage=Usage(completion_tokens=2))
        await asyncio.sleep(0.05)
        raise ZeroDivisionError


def test_a_fault_of_ours_ends_a_stream_with_an_error_frame(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with local(Faulty()) as server:
        told = chunks(server)
    assert joined(told[:-1]) == "so far"
    assert told[-1]["error"] == {
        "message": "the server failed",
        "type": "server_error",
        "param": None,
        "code": None,
    }
    assert "ZeroDivisionError" in caplog.text
