"""The whole product as a user has it: `forethought serve` with the default model in vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import BaseModel

from strategies.base import strategy_classes
from tests.server.serving import Served, serving

MODEL = "qwen2.5-coder-0.5b-instruct"
SUM: Any = [{"role": "user", "content": "What is 12 + 30? Put the answer in \\boxed{}."}]
CITY: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Look the {name} of a city up.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "population")
]

pytestmark = pytest.mark.model


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving("--engine", "vllm", "--model", MODEL, patience=300) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        yield client


def ask(client: OpenAI, **request: Any) -> Any:
    request = {"model": MODEL, "messages": SUM, "max_completion_tokens": 128} | request
    return client.chat.completions.create(**request)


@pytest.mark.parametrize("strategy", ["self_consistency", "best_of_n", "weighted_vote"])
def test_a_strategy_answers_with_its_exact_cost(client: OpenAI, strategy: str) -> None:
    completion = ask(client, extra_body={"strategy": {"type": strategy, "n": 4}})
    told = completion.model_extra["scaling"]
    stage = told["usage"]["sample"]
    assert (stage["calls"], stage["exact"]) == (4, True)
    assert completion.usage.completion_tokens == stage["completion_tokens"] >= 4
    assert stage["prompt_tokens"] == 4 * completion.usage.prompt_tokens
    assert completion.choices[0].finish_reason in ("stop", "length")
    if told["answer"] is not None:
        assert told["answer"] in completion.choices[0].message.content


@pytest.mark.parametrize("strategy", list(strategy_classes()))
def test_every_strategy_answers_within_a_small_budget(client: OpenAI, strategy: str) -> None:
    completion = ask(
        client,
        max_completion_tokens=64,
        extra_body={"strategy": strategy, "budget": {"max_tokens": 300, "max_calls": 64}},
    )
    told = completion.model_extra["scaling"]
    stages = told["usage"].values()
    assert completion.choices[0].message.content.strip()
    assert 1 <= completion.usage.completion_tokens <= 300
    assert completion.usage.completion_tokens == sum(each["completion_tokens"] for each in stages)
    assert sum(each["calls"] for each in stages) <= 64
    assert all(each["exact"] for each in stages)


def test_a_stream_comes_token_by_token_with_usage(client: OpenAI) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, seed=1))
    pieces = [
        c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content
    ]
    assert chunks[-1].usage.completion_tokens >= len(pieces) >= 5
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")


def test_log_probabilities(client: OpenAI) -> None:
    completion = ask(client, logprobs=True, top_logprobs=3, max_completion_tokens=8)
    entries = completion.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries).startswith(
        completion.choices[0].message.content
    )
    assert all(len(entry.top_logprobs) == 3 for entry in entries)


def test_errors_are_openais_classes(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, extra_body={"strategy": {"type": "best_of_n", "m": 3}})
    assert refused.value.param == "strategy.m"
    with pytest.raises(openai.NotFoundError):
        ask(client, model="nobody")
    with pytest.raises(openai.BadRequestError) as long:
        ask(client, messages=[{"role": "user", "content": "word " * 40_000}])
    assert long.value.code == "context_length_exceeded"


def test_parse(client: OpenAI) -> None:
    completion = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Ada is 36 years old. Write that as JSON."}],
        response_format=Person,
        max_completion_tokens=64,
        extra_body={"strategy": {"type": "self_consistency", "n": 4}},
    )
    person = completion.choices[0].message.parsed
    assert person is not None
    assert json.loads(completion.model_extra["scaling"]["answer"]) == person.model_dump()


def test_a_json_schema_is_obeyed(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    completion = ask(client, response_format=form, max_completion_tokens=48)
    assert isinstance(json.loads(completion.choices[0].message.content)["n"], int)


@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "function", "function": {"name": "population"}}],
    ids=["required", "named"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_tools(client: OpenAI, choice: Any, stream: bool) -> None:
    request = {"messages": CITY, "tools": TOOLS, "tool_choice": choice}
    extra = {"strategy": {"type": "self_consistency", "n": 4}}
    if stream:
        chunks = list(ask(client, **request, extra_body=extra, stream=True))
        (call,) = [call for c in chunks for call in (c.choices[0].delta.tool_calls or ())]
        reason = chunks[-1].choices[0].finish_reason
    else:
        completion = ask(client, **request, extra_body=extra)
        (call,) = completion.choices[0].message.tool_calls
        reason = completion.choices[0].finish_reason
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    assert call.function.name == "population" or choice == "required"
    assert reason in ("tool_calls", "stop")


def test_a_judge_is_paid_by_the_token(client: OpenAI) -> None:
    completion = ask(
        client, extra_body={"strategy": {"type": "best_of_n", "n": 4}, "verifier": "judge"}
    )
    judged = completion.model_extra["scaling"]["usage"]["verify"]
    assert (judged["calls"], judged["completion_tokens"]) == (4, 4)
    assert all(0 <= score <= 1 for score in completion.model_extra["scaling"]["scores"])


def test_a_budget_is_never_overrun(client: OpenAI) -> None:
    completion = ask(
        client,
        max_completion_tokens=512,
        extra_body={
            "strategy": {"type": "self_consistency", "n": 8},
            "min_tokens": 0,
            "budget": {"max_tokens": 200},
        },
    )
    assert completion.usage.completion_tokens <= 200
    if completion.model_extra["scaling"]["stopped_by"] == "tokens":
        assert completion.usage.completion_tokens >= 180


def test_langchain(served: Served) -> None:
    model = ChatOpenAI(
        model=MODEL,
        base_url=f"{served.url}/v1/self_consistency",
        api_key="none",  # type: ignore[arg-type]
        max_completion_tokens=64,  # type: ignore[call-arg]
        timeout=300,
    )
    assert model.invoke("What is 12 + 30?").content
    assert "".join(str(chunk.content) for chunk in model.stream("Say hello.", max_tokens=16))
    person = model.with_structured_output(Person).invoke("Ada is 36 years old.")
    assert isinstance(person, Person)


def test_ready_and_metrics(served: Served) -> None:
    assert httpx.get(f"{served.url}/readyz", timeout=60).status_code == 200
    counted = httpx.get(f"{served.url}/metrics").text
    assert 'strategy="self_consistency"' in counted


def test_completions_take_the_prompt_as_it_is(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": "1, 2, 3, 4, 5, 6,", "temperature": 0}
    told = client.completions.create(**asked, max_tokens=8, logprobs=2)
    [choice] = told.choices
    assert choice.text.startswith(" 7, 8")
    assert told.usage
    assert told.usage.prompt_tokens < 24  # the chat template of this model alone has more
    assert told.usage.completion_tokens == 8
    assert choice.logprobs
    assert choice.logprobs.tokens
    assert choice.logprobs.top_logprobs
    assert "".join(choice.logprobs.tokens) == choice.text
    assert all(len(top) >= 2 for top in choice.logprobs.top_logprobs)
    chunks = list(
        client.completions.create(
            **asked, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(each.choices[0].text for each in chunks if each.choices) == choice.text
    assert chunks[-1].usage == told.usage
    cut = client.completions.create(**asked, max_tokens=8, stop=", 8")
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (" 7", "stop")
    by_ids = client.completions.create(model=MODEL, prompt=[16, 11, 220, 17, 11], max_tokens=4)
    assert by_ids.usage
    assert by_ids.usage.prompt_tokens == 5
