"""Thinking and tool calls read by vLLM's parsers: over the whole reply, however it comes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from server.models import SilentProgress, resolve
from verifiers.types import Message, Prompt, Reply, Sampling

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
THOUGHT = "<think>Two and two\nare four.</think>The answer is 4."


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Make what a renderer needs of an engine: its configuration and tokenizer, no processes."""
    from transformers import AutoTokenizer
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.renderers import renderer_from_config

    model = resolve("qwen2.5-coder-0.5b-instruct", SilentProgress()).path
    path = tmp_path_factory.mktemp("thinker")
    shutil.copy(model / "config.json", path)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(path)
    config = AsyncEngineArgs(model=str(path), max_model_len=512).create_engine_config()
    renderer = renderer_from_config(config)
    yield SimpleNamespace(model_config=config.model_config, renderer=renderer)
    renderer.shutdown()


async def read(
    core: Any, reply: str, *, incremental: bool, said: str = "", **prompt: Any
) -> list[Message]:
    """Read a reply token by token, or at once, and return every message."""
    from server.engines.vllm_prompt import ChatRenderer

    renderer = ChatRenderer(core, "hermes", prompt.pop("reasoning_parser", None))
    encode = core.renderer.get_tokenizer().encode
    before = Reply(said, tuple(encode(said))) if said else None
    rendered = await renderer.render(
        Prompt(({"role": "user", "content": "?"},), reply=before, **prompt),
        Sampling(64, incremental=incremental),
    )
    reader = renderer.reader(rendered, incremental=incremental)
    assert reader is not None
    ids = encode(reply)
    if not incremental:
        return [reader.read(reply, ids, finished=True)]
    pieces = [core.renderer.get_tokenizer().decode([token_id]) for token_id in ids]
    return [
        reader.read(piece, [token_id], finished=place == len(ids))
        for place, (piece, token_id) in enumerate(zip(pieces, ids, strict=True), start=1)
    ]


@pytest.mark.parametrize("incremental", [True, False])
@pytest.mark.parametrize("cut", [0, 18])
async def test_thinking_is_set_apart(core: Any, incremental: bool, cut: int) -> None:
    said, rest = THOUGHT[:cut], THOUGHT[cut:]
    messages = await read(
        core, rest, said=said, incremental=incremental, reasoning_parser="deepseek_r1"
    )
    assert messages[-1] == Message("The answer is 4.", "Two and two\nare four.")
    for earlier, later in pairwise(messages):
        assert later.content.startswith(earlier.content)
        assert later.reasoning.startswith(earlier.reasoning)


@pytest.mark.parametrize("incremental", [True, False])
async def test_tool_calls_are_found_at_the_end(core: Any, incremental: bool) -> None:
    reply = f"Let me add.\n{CALL}\n{CALL}"
    *earlier, last = await read(core, reply, incremental=incremental, tools=(TOOL,))
    assert all(message == Message() for message in earlier)
    assert last.content.strip() == "Let me add."
    first, second = last.tool_calls
    assert first["function"] == {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    assert first["id"] != second["id"]


async def test_one_call_only_where_parallel_ones_are_refused(core: Any) -> None:
    (message,) = await read(
        core, f"{CALL}\n{CALL}", incremental=False, tools=(TOOL,), parallel_tool_calls=False
    )
    assert len(message.tool_calls) == 1


async def test_text_without_a_call_stays_text(core: Any) -> None:
    (message,) = await read(core, "No need.", incremental=False, tools=(TOOL,))
    assert message == Message("No need.")
