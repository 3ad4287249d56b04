"""Legacy completions: the official client, and the bodies that vLLM's bench and lm-eval send."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)

from server.completions.wire import REFUSED, CompletionRequest
from server.document.chat import TextCompletion
from server.engines.scripted import ScriptedEngine
from server.engines.scripts import arithmetic, split
from tests.server.local import Local, error_of, local
from verifiers.types import TOKEN_IDS, Message, Prompt, Sampling

TEXT = "Once upon a time"
PRESETS = {"wise": {"strategy": "self_consistency"}, "plain": {"strategy": "single"}}
SEEN: list[Prompt] = []


def script(prompt: Prompt, sampling: Sampling, index: int) -> str | Message:
    SEEN.append(prompt)
    return arithmetic(prompt, sampling, index)


@pytest.fixture(scope="module")
def server() -> Iterator[Local]:
    with local(ScriptedEngine(script), presets=PRESETS) as served:
        yield served


@pytest.fixture
def client(server: Local) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_text_goes_on(server: Local, client: OpenAI) -> None:
    SEEN.clear()
    before = server.engine.log["tokens"]
    told = client.completions.create(model="scripted", prompt=TEXT, seed=1, max_tokens=200)
    [choice] = told.choices
    assert choice.text.endswith("}")
    assert choice.finish_reason == "stop"
    assert told.usage
    assert told.usage.prompt_tokens == 4
    assert told.usage.completion_tokens == server.engine.log["tokens"] - before
    assert told.object == "text_completion"
    [prompt] = SEEN
    assert prompt.plain
    assert [message["content"] for message in prompt.messages] == [TEXT]
    again = client.completions.create(model="scripted", prompt=[TEXT], seed=1, max_tokens=200)
    assert again.choices[0].text == choice.text


def test_sixteen_tokens_if_nothing_is_said(client: OpenAI) -> None:
    told = client.completions.create(model="scripted", prompt=TEXT, seed=1, n=8)
    cut = [choice for choice in told.choices if choice.finish_reason == "length"]
    assert cut
    assert all(len(split(choice.text)) == 16 for choice in cut)


@pytest.mark.parametrize("prompt", [[5, 6, 7], [[5, 6, 7]]])
def test_token_ids(client: OpenAI, prompt: Any) -> None:
    SEEN.clear()
    told = client.completions.create(model="scripted", prompt=prompt, seed=1)
    assert told.usage
    assert told.usage.prompt_tokens == 3
    assert SEEN[0].messages[0][TOKEN_IDS] == (5, 6, 7)


def test_several_choices_and_a_stop(client: OpenAI) -> None:
    told = client.completions.create(model="scripted", prompt=TEXT, seed=1, n=3, stop=["="])
    assert [choice.index for choice in told.choices] == [0, 1, 2]
    assert len({choice.text for choice in told.choices}) == 3
    assert not any("=" in choice.text for choice in told.choices)


def test_a_stream_is_the_same_text(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "scripted", "prompt": TEXT, "seed": 2, "n": 2}
    whole = client.completions.create(**asked, max_tokens=50, logprobs=2)
    chunks = list(
        client.completions.create(
            **asked,
            max_tokens=50,
            logprobs=2,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    usage = chunks.pop().usage
    assert usage == whole.usage
    for choice in whole.choices:
        pieces = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert "".join(piece.text for piece in pieces) == choice.text
        assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [
            choice.finish_reason
        ]
        told = [piece.logprobs for piece in pieces if piece.logprobs]
        assert choice.logprobs
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [value for each in told for value in getattr(each, name)]
            assert joined == getattr(choice.logprobs, name)


def test_log_probabilities(client: OpenAI) -> None:
    told = client.completions.create(model="scripted", prompt=TEXT, seed=2, logprobs=3)
    [choice] = told.choices
    said = choice.logprobs
    assert said
    assert said.tokens
    assert said.token_logprobs
    assert said.text_offset
    assert said.top_logprobs
    assert "".join(said.tokens) == choice.text
    for token, offset in zip(said.tokens, said.text_offset, strict=True):
        assert choice.text[offset:].startswith(token)
    for token, logprob, top in zip(
        said.tokens, said.token_logprobs, said.top_logprobs, strict=True
    ):
        assert top[token] == logprob == max(top.values())
        assert len(top) == 3
    none = client.completions.create(model="scripted", prompt=TEXT, seed=2, logprobs=0)
    assert none.choices[0].logprobs
    assert none.choices[0].logprobs.top_logprobs is None


def test_every_parameter_of_openai_is_accepted_or_refused() -> None:
    known = {
        *CompletionCreateParamsNonStreaming.__annotations__,
        *CompletionCreateParamsStreaming.__annotations__,
    }
    fields = set(CompletionRequest.model_fields)
    assert known - fields == REFUSED.keys() - {"verifier"}
    assert not fields & REFUSED.keys()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"echo": True}, "echo"),
        ({"suffix": "the end"}, "suffix"),
        ({"best_of": 4}, "best_of"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt.1"),
        ({"prompt": [-1]}, "prompt.0"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"strategy": "best_of_n"}, "strategy"),
        ({"model": "wise"}, "strategy"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"min_tokens": 50}, "min_tokens"),
        ({"messages": []}, "messages"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": "word " * 40_000}, "prompt"),
    ],
)
def test_what_is_not_served_is_named(server: Local, body: dict[str, Any], param: str) -> None:
    before = server.engine.log.copy()
    response = server.http.post("/v1/completions", json={"prompt": TEXT, **body})
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param
    assert server.engine.log == before


def test_a_preset_of_one_reply_is_served(client: OpenAI) -> None:
    told = client.completions.create(model="plain", prompt=TEXT, extra_body={"strategy": "single"})
    assert told.model == "plain"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nobody", prompt=TEXT)


def test_what_vllms_bench_sends(server: Local) -> None:
    """The body of `vllm bench serve --backend openai`, and what it reads of the answer."""
    body = {
        "model": "scripted",
        "prompt": TEXT,
        "repetition_penalty": 1.0,
        "max_tokens": 12,
        "logprobs": None,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
    }
    before = server.engine.log["tokens"]
    response = server.http.post("/v1/completions", json=body)
    made = server.engine.log["tokens"] - before
    frames = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert frames.pop() == "[DONE]"
    chunks = [json.loads(frame) for frame in frames]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"])
    usages = [chunk["usage"] for chunk in chunks if not chunk["choices"]]
    assert [usage["completion_tokens"] for usage in usages] == [made]


def test_what_lm_eval_sends(server: Local) -> None:
    """The bodies of `local-completions` for tasks that generate, with and without a tokenizer."""
    body = {"model": "scripted", "max_tokens": 64, "temperature": 0, "stop": ["\n\n"], "seed": 1234}
    for prompt in (TEXT, [TEXT], [[5, 6, 7]]):
        response = server.http.post("/v1/completions", json={"prompt": prompt, **body})
        assert response.status_code == 200
        assert TextCompletion.model_validate(response.json()).choices[0].text
