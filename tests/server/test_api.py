"""The API as its users meet it: the official client and LangChain's, over a real socket."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from server.engines.scripted import ScriptedEngine
from server.engines.scripts import arithmetic
from tests.server.judged import Away
from tests.server.local import QUESTION, Local, local
from verifiers.errors import EngineError, EngineUnavailable
from verifiers.types import Message, Prompt, Sampling

MESSAGES: Any = QUESTION
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look something up.",
            "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
        },
    }
]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
PRESETS = {"wise": {"strategy": {"type": "self_consistency", "n": 5}}}


def script(prompt: Prompt, sampling: Sampling, index: int) -> str | Message:
    """Answer in the form that is asked for, and call a tool when told to look."""
    if prompt.response_format is not None:
        return json.dumps({"value": 42 if index % 3 else 7, "unit": "cows"})
    if prompt.tools and "look" in str(prompt.messages[-1]["content"]):
        return Message(tool_calls=(CALL,))
    return arithmetic(prompt, sampling, index)


@pytest.fixture(scope="module")
def server() -> Iterator[Local]:
    with local(ScriptedEngine(script), presets=PRESETS) as served:
        yield served


@pytest.fixture
def client(server: Local) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def scaling(completion: Any) -> dict[str, Any]:
    told: dict[str, Any] = completion.model_extra["scaling"]
    return told


def test_a_completion(client: OpenAI) -> None:
    completion = client.chat.completions.create(
        model="scripted",
        messages=MESSAGES,
        seed=1,
        extra_body={"strategy": {"type": "self_consistency", "n": 8}},
    )
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage
    assert completion.usage.completion_tokens_details
    assert completion.usage.completion_tokens_details.reasoning_tokens
    told = scaling(completion)
    assert told["strategy"] == "self_consistency"
    assert told["answer"] in completion.choices[0].message.content
    assert told["usage"]["sample"]["calls"] == 8
    again = client.chat.completions.create(
        model="scripted",
        messages=MESSAGES,
        seed=1,
        extra_body={"strategy": {"type": "self_consistency", "n": 8}},
    )
    assert again.choices[0].message.content == completion.choices[0].message.content


async def test_a_stream_with_usage(server: Local) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="wise",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens > 0
    assert scaling(chunks[-2])["strategy"] == "self_consistency"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:-1]] == ["stop"]


def test_the_stream_helper_puts_the_answer_together(client: OpenAI) -> None:
    extra = {"strategy": "self_consistency"}
    with client.chat.completions.stream(
        model="scripted", messages=MESSAGES, seed=4, extra_body=extra
    ) as stream:
        told = stream.get_final_completion()
    whole = client.chat.completions.create(
        model="scripted", messages=MESSAGES, seed=4, extra_body=extra
    )
    assert told.choices[0].message.content == whole.choices[0].message.content


@pytest.mark.parametrize("strategy", ["single", "best_of_n", "self_consistency"])
def test_parse_with_a_schema(client: OpenAI, strategy: str) -> None:
    class Answer(BaseModel):
        value: int
        unit: str

    completion = client.chat.completions.parse(
        model="scripted",
        messages=MESSAGES,
        response_format=Answer,
        extra_body={"strategy": strategy},
    )
    parsed = completion.choices[0].message.parsed
    assert parsed is not None
    assert parsed.unit == "cows"
    if strategy == "self_consistency":
        assert parsed.value == 42


@pytest.mark.parametrize(
    ("choice", "content"),
    [
        ("auto", "Please look"),
        ("required", "6 * 7?"),
        ({"type": "function", "function": {"name": "look"}}, "6 * 7?"),
    ],
)
@pytest.mark.parametrize("strategy", ["single", "self_consistency"])
def test_tools(client: OpenAI, choice: Any, content: str, strategy: str) -> None:
    request: dict[str, Any] = {
        "model": "scripted",
        "messages": [{"role": "user", "content": content}],
        "tools": TOOLS,
        "tool_choice": choice,
        "extra_body": {"strategy": strategy},
    }
    completion = client.chat.completions.create(**request)
    assert completion.choices[0].finish_reason == "tool_calls"
    [call] = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "look"
    assert json.loads(call.function.arguments).keys() == {"x"}
    with client.chat.completions.stream(**request) as stream:
        [streamed] = stream.get_final_completion().choices[0].message.tool_calls or []
    assert streamed.function.name == "look"
    followed = client.chat.completions.create(
        model="scripted",
        tools=TOOLS,
        messages=[
            *request["messages"],
            completion.choices[0].message,
            {"role": "tool", "tool_call_id": call.id, "content": "42"},
        ],
    )
    assert followed.choices[0].message.content


def test_tools_that_may_be_left_alone(client: OpenAI) -> None:
    completion = client.chat.completions.create(model="scripted", messages=MESSAGES, tools=TOOLS)
    assert completion.choices[0].message.content
    assert completion.choices[0].message.tool_calls is None


def test_several_answers(client: OpenAI) -> None:
    for strategy in ("single", "best_of_n"):
        completion = client.chat.completions.create(
            model="scripted", messages=MESSAGES, n=3, extra_body={"strategy": strategy}
        )
        assert [choice.index for choice in completion.choices] == [0, 1, 2]


def test_the_strategy_in_the_url(server: Local) -> None:
    with OpenAI(base_url=f"{server.url}/v1/best_of_n", api_key="none") as client:
        completion = client.chat.completions.create(model="scripted", messages=MESSAGES)
        assert scaling(completion)["strategy"] == "best_of_n"
        assert scaling(completion)["verifier"] == "logprob"
        assert [model.id for model in client.models.list()] == ["scripted", "wise"]


@pytest.mark.parametrize(
    ("request_", "error", "param"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"extra_body": {"strategy": "nope"}}, openai.BadRequestError, "strategy"),
    ],
)
def test_error_classes(
    client: OpenAI, request_: dict[str, Any], error: type[openai.APIStatusError], param: str
) -> None:
    for stream in (False, True):
        with pytest.raises(error) as caught:
            client.chat.completions.create(
                **{"model": "scripted", "messages": MESSAGES, "stream": stream, **request_}
            )
        assert caught.value.param == param


def test_an_error_in_a_stream_raises() -> None:
    far: dict[str, Any] = {
        "engines": {"far": {"engine": "scripted"}},
        "verifiers": {"far": {"type": "judge", "engine": "far"}},
    }
    ill = ScriptedEngine(fail=lambda prompt, index: EngineError("ill"))
    with (
        local(others={"far": ill}, **far) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(
            model="scripted",
            messages=MESSAGES,
            stream=True,
            extra_body={
                "strategy": "best_of_n",
                "verifier": "far",
                "stream_options": {"include_progress": True},
            },
        )
        with pytest.raises(openai.APIError, match="ill"):
            list(stream)


def test_models(client: OpenAI, server: Local) -> None:
    assert client.models.retrieve("scripted").id == "scripted"
    assert client.models.retrieve("wise").model_extra["preset"]["strategy"]["n"] == 5  # type: ignore[index]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a/b")
    assert server.http.get("/v1/single/models").json() == server.http.get("/v1/models").json()
    assert server.http.get("/v1/nope/models").status_code == 404


async def test_langchain(server: Local) -> None:
    chat = ChatOpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",  # type: ignore[arg-type]
        model="wise",
        max_retries=0,
    )
    reply = await chat.ainvoke("What is 6 times 7?")
    assert "boxed" in str(reply.content)
    assert reply.usage_metadata  # type: ignore[attr-defined]
    pieces = [piece async for piece in chat.astream("What is 6 times 7?")]
    assert "boxed" in "".join(str(piece.content) for piece in pieces)
    bound = await chat.bind_tools(TOOLS, tool_choice="required").ainvoke("6 * 7?")
    assert bound.tool_calls[0]["name"] == "look"

    class Answer(BaseModel):
        value: int
        unit: str

    assert await chat.with_structured_output(Answer).ainvoke("6 * 7?") == Answer(
        value=42, unit="cows"
    )


def test_lists(server: Local) -> None:
    for path in ("/v1/strategies", "/v1/verifiers"):
        body = server.http.get(path).json()
        assert body["object"] == "list"
        for entry in body["data"]:
            assert entry.keys() - {"type", "calibrated"} == {
                "name",
                "summary",
                "paper",
                "schema",
                "defaults",
                "needs",
                "available",
                "reason",
            }
            assert entry["available"] is (entry["reason"] is None)
            assert entry["summary"].endswith(".")
    names = [each["name"] for each in server.http.get("/v1/strategies").json()["data"]]
    assert names == sorted(server.state.strategies)


def test_what_the_engine_cannot_do_is_listed_with_its_reason() -> None:
    poor = replace(ScriptedEngine().capabilities, logprobs=None)
    with local(ScriptedEngine(capabilities=poor)) as server:
        listed = {each["name"]: each for each in server.http.get("/v1/verifiers").json()["data"]}
        assert not listed["logprob"]["available"]
        assert "log-probabilities" in listed["logprob"]["reason"]
        assert server.refused(strategy="best_of_n")["param"] == "verifier"


def test_the_document_holds_the_union_of_the_strategies(server: Local) -> None:
    document = server.http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    request = schemas["ChatCompletionRequest"]
    [union] = [each for each in request["properties"]["strategy"]["anyOf"] if "oneOf" in each]
    assert union["discriminator"]["mapping"].keys() == set(server.state.strategies)
    for reference in union["discriminator"]["mapping"].values():
        assert reference.removeprefix("#/components/schemas/") in schemas
    assert "/v1/{strategy}/chat/completions" in document["paths"]
    assert server.http.get("/docs").status_code == 200


def test_health_and_metrics(server: Local) -> None:
    assert server.http.get("/healthz").status_code == 200
    assert server.http.get("/readyz").status_code == 200
    started = server.engine.log["started"]
    assert server.http.get("/readyz").status_code == 200
    assert server.engine.log["started"] == started
    server.post(strategy="self_consistency")
    list(server.post(stream=True).iter_lines())
    text = server.http.get("/metrics").text
    for line in (
        'forethought_requests_total{status="200",strategy="self_consistency"}',
        'forethought_tokens_total{kind="completion",stage="sample",strategy="self_consistency"}',
        'forethought_first_token_seconds_count{strategy="single"}',
    ):
        assert line in text


def test_an_engine_that_does_not_answer_is_not_ready() -> None:
    ill = ScriptedEngine(fail=lambda prompt, index: EngineUnavailable("gone"))
    with local(ill) as server:
        assert server.http.get("/healthz").status_code == 200
        assert server.http.get("/readyz").status_code == 503


def test_a_verifier_that_is_away_is_told_of(server: Local) -> None:
    ready = server.http.get("/readyz").json()
    assert ready["status"] == "ready"
    assert ready["engines"] == {"main": "ok"}
    assert ready["verifiers"]["logprob"] == ready["verifiers"]["math"] == "ok"
    poor = replace(ScriptedEngine().capabilities, logprobs=None)
    with local(ScriptedEngine(capabilities=poor)) as other:
        other.state.verifiers["away"] = Away()  # type: ignore[index]
        response = other.http.get("/readyz")
        assert response.status_code == 200
        told = response.json()["verifiers"]
        assert told["away"] == "the scorer does not answer"
        assert "log-probabilities" in told["logprob"]
        assert told["math"] == "ok"


def test_request_ids(server: Local) -> None:
    given = {"X-Request-Id": "abc-1"}
    assert server.http.get("/healthz", headers=given).headers["x-request-id"] == "abc-1"
    for bad in ("x" * 129, "a b"):
        told = server.http.get("/nothing", headers={"X-Request-Id": bad}).headers["x-request-id"]
        assert len(told) == 16


def test_dry_run(server: Local) -> None:
    before = server.engine.log.copy()
    body = server.post(strategy={"type": "best_of_n", "n": 4}, dry_run=True, max_tokens=10).json()
    assert body["worst_case"] == {"samples": 4, "tokens": 40}
    assert server.engine.log == before


def test_traces(tmp_path: Path) -> None:
    with local(traces=tmp_path / "traces.db") as server:
        whole = server.post(strategy={"type": "best_of_n", "n": 3}).json()
        trace = server.http.get(f"/v1/traces/{whole['scaling']['trace_id']}").json()
        assert trace["strategy"] == "best_of_n"
        assert trace["messages"] == QUESTION
        assert [event["kind"] for event in trace["events"]] == (
            ["sampled"] * 3 + ["scored"] * 3 + ["finished"]
        )
        frames = server.post(strategy={"type": "best_of_n", "n": 3}, stream=True).text
        last = json.loads(frames.strip().split("\n\n")[-2].removeprefix("data: "))
        path = f"/v1/traces/{last['scaling']['trace_id']}"
        assert server.http.get(path).status_code == 200
        assert server.http.get("/v1/traces/nope").status_code == 404


def test_a_lost_trace_does_not_cost_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with local(traces=path) as server:
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE events")
        assert server.post().json()["choices"][0]["message"]["content"]
