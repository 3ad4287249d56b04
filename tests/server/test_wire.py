"""The request's fields against those of the official client, and the strictness of their types."""

from typing import Any

import pytest
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic_core import to_json

from server.body import parse_chat_request
from server.wire import IGNORED, REFUSED, ChatRequest
from tests.server.local import QUESTION
from verifiers.errors import BadRequest

OPENAI = {
    *CompletionCreateParamsNonStreaming.__annotations__,
    *CompletionCreateParamsStreaming.__annotations__,
}
OURS = {"strategy", "verifier", "budget", "include", "dry_run", "background", "cache", "trace"}
VLLM = {
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
    "bad_words",
    "chat_template_kwargs",
    "thinking_token_budget",
    "include_reasoning",
}


def parse(**body: Any) -> ChatRequest:
    return parse_chat_request(to_json({"messages": QUESTION, **body}))


def refused(**body: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(**body)
    return caught.value


def test_every_parameter_of_openai_is_accepted_ignored_or_refused() -> None:
    fields = set(ChatRequest.model_fields)
    assert fields - OPENAI == OURS | VLLM
    assert OPENAI - fields == REFUSED.keys() - {"chat_template", "priority"}
    assert fields >= IGNORED
    assert not fields & REFUSED.keys()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused_is_named(name: str) -> None:
    assert refused(**{name: {}}).param == name
    assert parse(**{name: None}).messages


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"n": "2"}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": 0}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"stop": 3}, "stop"),
        ({"stop": ["a", ""]}, "stop.1"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"budget": {"max_tokens": 15}}, "budget.max_tokens"),
        ({"budget": {"tokens": 15}}, "budget.tokens"),
        ({"budget": 100}, "budget"),
        ({"include": ["everything"]}, "include.0"),
        ({"stream_options": {"include_everything": True}}, "stream_options.include_everything"),
        ({"modalities": ["text", "audio"]}, "modalities.1"),
        ({"temperatur": 1}, "temperatur"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [*QUESTION, {"role": "user", "content": "", "x": 1}]}, "messages.1.x"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "what is this?"},
                            {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
                        ],
                    }
                ]
            },
            "messages.0.content.1.image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages.0.content.0.type",
        ),
    ],
)
def test_a_wrong_field_is_named_by_its_path(body: dict[str, Any], param: str) -> None:
    assert refused(**body).param == param


def test_a_misspelt_field_gets_a_hint() -> None:
    assert "`temperature`" in refused(temperatur=1).message


def test_whole_numbers_are_numbers() -> None:
    assert parse(temperature=1, budget={"deadline_s": 5}).temperature == 1


def test_what_our_replies_hold_may_be_sent_back() -> None:
    reply = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "reasoning_content": "hm",
        "reasoning": "hm",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ],
    }
    assert len(parse(messages=[*QUESTION, reply]).messages) == 2


def test_images_in_the_request_are_taken() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert parse(messages=[{"role": "user", "content": [part]}]).messages


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        '{"messages": []}'.encode("utf-16"),
        b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"metadata": {"a": NaN}, "messages": [{"role": "user", "content": ""}]}',
        b'{"temperature": NaN, "messages": [{"role": "user", "content": ""}]}',
        b'{"temperature": Infinity, "messages": [{"role": "user", "content": ""}]}',
        b'{"temperature": 1e999, "messages": [{"role": "user", "content": ""}]}',
        b'{"n": 1, "n": 2, "messages": [{"role": "user", "content": ""}]}',
        b'{"metadata": {"a": 1, "a": 1}, "messages": [{"role": "user", "content": ""}]}',
        b'{"metadata": ' + b'{"a":' * 150 + b"1" + b"}" * 150 + b', "seed": "x"}',
        b'{"metadata": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
        b"[" * 100_000,
        b'{"seed": ' + b"9" * 10_000 + b"}",
        b'{"seed": ' + b"9" * 4000 + b', "messages": [{"role": "user", "content": ""}]}',
        b'{"messages": [{"role": "user", "content": ""}]} x',
    ],
)
def test_hostile_json_is_refused_without_a_crash(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_chat_request(body)
