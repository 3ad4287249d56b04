"""The HTTP engine against a real socket: what it finds out, what it sends and what it reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from server.engines.http import HTTPEngine
from tests.engines.conftest import started
from tests.engines.contract import PROMPT, SAMPLING, draw
from tests.stub_upstream import Stub, running_stub
from verifiers.types import Continuation, Reply, Sampling

STREAMED = replace(SAMPLING, incremental=True)
TOOLS = tuple(
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("look", "compute")
)


async def test_probes_find_what_the_upstream_can(engine: HTTPEngine) -> None:
    found = engine.capabilities
    assert found.context_length == 32_768
    assert found.continuation is Continuation.TEXT
    assert found.logprobs == 20
    assert found.adapters == ("stub-lora",)
    assert found.seeds
    assert found.grammars
    assert found.tools
    assert found.plain
    assert found.together


@pytest.mark.parametrize(
    ("behaviour", "capability", "lowered"),
    [
        ({"honours_n": False}, "together", False),
        ({"honours_seed": False}, "seeds", False),
        ({"logprobs": False}, "logprobs", None),
        ({"continuation": False}, "continuation", Continuation.NONE),
        ({"completions": False}, "plain", False),
    ],
)
async def test_a_missing_ability_lowers_only_itself(
    behaviour: dict[str, bool], capability: str, lowered: Any
) -> None:
    with running_stub() as whole, running_stub(**behaviour) as lesser:
        async with started(whole) as able, started(lesser) as engine:
            expected = replace(able.capabilities, **{capability: lowered})
            assert engine.capabilities == expected
            assert (await draw(engine))[0].last.finish_reason is not None


async def test_a_group_is_one_request_and_a_streamed_group_is_many(
    engine: HTTPEngine, stub: Stub
) -> None:
    await draw(engine, n=8)
    assert [record.body.get("n") for record in stub.records] == [8]
    stub.records.clear()
    await draw(engine, STREAMED, n=8)
    assert [record.body["stream"] for record in stub.records] == [True] * 8


async def test_only_fields_that_are_set_are_sent(engine: HTTPEngine, stub: Stub) -> None:
    await draw(engine, Sampling(max_tokens=4))
    assert set(stub.records[0].body) == {"model", "messages", "max_tokens"}
    everything = Sampling(
        5, 0.5, 0.9, 40, 0.1, 1.1, 0.2, 0.3, {"7": 1.0}, 2, True, ("\n",), (9,), True, ("no",), 3, 1
    )
    await draw(engine, replace(everything, logprobs=2), prompt=replace(PROMPT, adapter="stub-lora"))
    sent = stub.records[1].body
    assert sent["model"] == "stub-lora"
    assert (sent["top_k"], sent["min_tokens"], sent["thinking_token_budget"]) == (40, 2, 3)
    assert sent["ignore_eos"] is True
    assert (sent["logit_bias"], sent["bad_words"], sent["stop_token_ids"]) == (
        {"7": 1},
        ["no"],
        [9],
    )
    assert sent["include_stop_str_in_output"] is True
    assert not {"keep_stop", "first", "incremental"} & set(sent)


async def test_a_regex_becomes_a_structured_output(engine: HTTPEngine, stub: Stub) -> None:
    prompt = replace(
        PROMPT, response_format={"type": "regex", "regex": "[ab]+"}, template_arguments={"x": True}
    )
    sample = (await draw(engine, prompt=prompt))[0]
    assert sample.text == "matches [ab]+"
    assert stub.records[0].body["structured_outputs"] == {"regex": "[ab]+"}
    assert stub.records[0].body["chat_template_kwargs"] == {"x": True}


async def test_usage_at_the_end_only_is_exact(stub: Stub) -> None:
    stub.continuous_usage = False
    async with started(stub) as engine:
        sample = (await draw(engine, STREAMED))[0]
        assert stub.records[0].body["stream_options"] == {"include_usage": True}
        assert sample.usage.completion_tokens == stub.tokens
        assert sample.usage.exact
        assert sum(chunk.usage.completion_tokens for chunk in sample.chunks[:-1]) == 0


@pytest.mark.parametrize("sampling", [SAMPLING, STREAMED], ids=["whole", "streamed"])
async def test_reasoning_is_set_apart(engine: HTTPEngine, stub: Stub, sampling: Sampling) -> None:
    plain = (await draw(engine, sampling))[0]
    assert all(chunk.message is None for chunk in plain.chunks)
    stub.reasoning = "let me think"
    sample = (await draw(engine, sampling))[0]
    message = sample.last.message
    assert message is not None
    assert message.reasoning.split() == ["let", "me", "think"] or message.reasoning == "letmethink"
    assert message.content == plain.text
    assert sample.text == message.reasoning + message.content


@pytest.mark.parametrize("sampling", [SAMPLING, STREAMED], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("choice", "name"),
    [("required", "look"), ({"type": "function", "function": {"name": "compute"}}, "compute")],
)
async def test_tool_calls_come_with_the_last_chunk(
    engine: HTTPEngine, sampling: Sampling, choice: Any, name: str
) -> None:
    prompt = replace(PROMPT, tools=TOOLS, tool_choice=choice)
    sample = (await draw(engine, sampling, prompt=prompt))[0]
    assert sample.last.finish_reason == "tool_calls"
    assert sample.last.message is not None
    [call] = sample.last.message.tool_calls
    assert call["type"] == "function"
    assert call["id"]
    assert call["function"]["name"] == name
    assert call["function"]["arguments"].startswith('{"x": ')
    assert all(not (c.message and c.message.tool_calls) for c in sample.chunks[:-1])


async def test_a_group_s_tokens_are_shared_out_exactly(engine: HTTPEngine, stub: Stub) -> None:
    samples = await draw(engine, replace(SAMPLING, max_tokens=200), n=7)
    assert sum(sample.usage.completion_tokens for sample in samples.values()) == stub.tokens
    stub.records.clear()
    counted = await draw(engine, replace(SAMPLING, max_tokens=200, logprobs=0), n=7)
    assert sum(sample.usage.completion_tokens for sample in counted.values()) == stub.tokens
    for sample in counted.values():
        assert sample.usage.completion_tokens == len(sample.logprobs)


async def test_tokens_are_counted_where_the_upstream_tokenizes(stub: Stub) -> None:
    async with started(stub) as engine:
        sample = (await draw(engine))[0]
        assert await engine.count_tokens(PROMPT) == sample.usage.prompt_tokens
        begun = replace(PROMPT, reply=Reply("so then"))
        assert await engine.count_tokens(begun) == (
            (await draw(engine, prompt=begun))[0].usage.prompt_tokens
        )
    stub.tokenize = False
    async with started(stub) as engine:
        assert await engine.count_tokens(PROMPT) == 0
