"""The stub upstream's requests and answers as OpenAI's server, vLLM's at that, writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import Message, Send

from tests.stub_replies import JSON, Limits, Reply, count_prompt, reply_to


def replies(body: JSON) -> list[Reply]:
    stop = body.get("stop") or ()
    limits = Limits(
        body.get("max_tokens", 16),
        (stop,) if isinstance(stop, str) else tuple(stop),
        bool(body.get("include_stop_str_in_output")),
        (body.get("top_logprobs") or 0) if body.get("logprobs") else None,
    )
    return [reply_to(body, index, limits) for index in range(body.get("n", 1))]


def event(index: int, delta: JSON) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def delta(reply: Reply, step: int) -> JSON:
    piece = reply.pieces[step]
    if reply.tool_call is None:
        return {"content": piece}
    function = {"arguments": piece}
    if step == 0:
        opening = {"index": 0, "id": "call_stub", "type": "function"}
        return {
            "tool_calls": [opening | {"function": function | {"name": reply.tool_call["name"]}}]
        }
    return {"tool_calls": [{"index": 0, "function": function}]}


def usage(body: JSON, completion_tokens: int) -> JSON:
    prompt_tokens = count_prompt(body)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": prompt_tokens // 16 * 16},
    }


def start(status: int, headers: Mapping[str, str]) -> Message:
    named = {"content-type": "application/json"} | dict(headers)
    pairs = [(name.encode(), value.encode()) for name, value in named.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


def part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def respond(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    await send(start(status, {"content-length": str(len(body)), **headers}))
    await send({"type": "http.response.body", "body": body})
