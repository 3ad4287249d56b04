"""Every strategy over the API, with nothing but its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from server.engines.scripted import ScriptedEngine
from server.engines.scripts import arithmetic
from strategies.base import strategy_classes
from tests.server.local import QUESTION, Local, local
from verifiers.types import Message, Prompt, Sampling

MESSAGES: Any = QUESTION
NAMES = list(strategy_classes())
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": {"type": "object"}},
}


def script(prompt: Prompt, sampling: Sampling, index: int) -> str | Message:
    """Answer in JSON where that is asked for."""
    if prompt.response_format is not None:
        return json.dumps({"value": 42})
    return arithmetic(prompt, sampling, index)


@pytest.fixture(scope="module")
def server() -> Iterator[Local]:
    with local(ScriptedEngine(script)) as served:
        yield served


@pytest.fixture(scope="module")
def client(server: Local) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("name", NAMES)
def test_its_worst_case_is_told_without_work(server: Local, name: str) -> None:
    before = server.engine.log.copy()
    told = server.post(strategy=name, dry_run=True)
    assert told.status_code == 200, told.text
    assert told.json()["worst_case"]["samples"] >= 1
    assert server.engine.log == before


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_streams_and_counts(server: Local, client: OpenAI, name: str) -> None:
    made = server.engine.log["tokens"]
    whole = client.chat.completions.create(
        model="scripted", messages=MESSAGES, extra_body={"strategy": name}, seed=5
    )
    assert whole.choices[0].message.content
    assert whole.usage is not None
    assert whole.usage.completion_tokens == server.engine.log["tokens"] - made > 0
    stream = client.chat.completions.create(
        model="scripted", messages=MESSAGES, extra_body={"strategy": name}, seed=5, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert server.engine.running == 0


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_to_the_form_that_is_asked_for(client: OpenAI, name: str) -> None:
    answer = client.chat.completions.create(
        model="scripted",
        messages=MESSAGES,
        response_format=SCHEMA,
        extra_body={"strategy": name},
    )
    assert json.loads(answer.choices[0].message.content or "") == {"value": 42}
