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


def plain_as_chat(body: JSON) -> dict[str, Any]:
    """Tell a legacy completion's body as a chat's, whose reply hangs on how the prompt begins."""
    prompt, logprobs = body["prompt"], body.get("logprobs")
    words = prompt.split() if isinstance(prompt, str) else map(str, prompt)
    begin = {"role": "user", "content": " ".join(list(words)[:5])}
    asked = {**body, "messages": [begin]}
    return asked | {"logprobs": logprobs is not None, "top_logprobs": logprobs or 0}


def chat_as_plain(answer: JSON) -> JSON:
    """Tell a chat's answer, or an event of it, as a legacy completion's."""
    return {**answer, "choices": [_plain_choice(each) for each in answer["choices"]]}


def _plain_choice(choice: JSON) -> JSON:
    said = choice.get("message") or choice["delta"]
    content = (choice.get("logprobs") or {}).get("content")
    logprobs = None
    if content is not None:
        logprobs = {
            "tokens": [entry["token"] for entry in content],
            "token_logprobs": [entry["logprob"] for entry in content],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in content
            ],
            "text_offset": [0] * len(content),
        }
    kept = {key: choice[key] for key in ("index", "finish_reason", "stop_reason") if key in choice}
    return {**kept, "text": said.get("content") or "", "logprobs": logprobs}


def start(status: int, headers: Mapping[str, str]) -> Message:
    named = {"content-type": "application/json"} | dict(headers)
    pairs = [(name.encode(), value.encode()) for name, value in named.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


def part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def respond(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    await send(start(status, {"content-length": str(len(body)), **headers}))
    await send({"type": "http.response.body", "body": body})
