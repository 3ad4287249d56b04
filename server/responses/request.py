"""A request for a response, told to the chat line, and what the response repeats of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from server.body import parse_chat_request
from server.responses.conversation import chat_messages
from server.responses.wire import ResponseRequest
from server.wire import ChatRequest
from verifiers.types import JSONObject

_SAME_NAME = (
    "model",
    "strategy",
    "verifier",
    "trace",
    "stream",
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "top_k",
    "min_p",
    "repetition_penalty",
    "thinking_token_budget",
    "chat_template_kwargs",
    "user",
    "metadata",
)
LOGPROBS = "message.output_text.logprobs"


def as_chat(wire: ResponseRequest, items: Sequence[JSONObject]) -> ChatRequest:
    """Say the same to the chat line; `items` are the whole conversation, as it is kept.

    Raises BadRequest.
    """
    include = wire.include or ()
    reasoning: JSONObject = wire.reasoning or {}
    text: JSONObject = wire.text or {}
    fields: dict[str, Any] = {name: getattr(wire, name) for name in _SAME_NAME}
    fields |= {
        "messages": chat_messages(items, wire.instructions),
        "budget": None if wire.budget is None else wire.budget.model_dump(exclude_none=True),
        "max_completion_tokens": wire.max_output_tokens,
        "reasoning_effort": reasoning.get("effort"),
        "tools": [_tool(tool) for tool in wire.tools or ()] or None,
        "tool_choice": _tool_choice(wire.tool_choice),
        "response_format": _format(text.get("format")),
        "logprobs": LOGPROBS in include or None,
        "top_logprobs": wire.top_logprobs,
        "include": ["candidates"] if "candidates" in include else None,
    }
    told = {name: value for name, value in fields.items() if value is not None}
    return parse_chat_request(to_json(told))


def repeated(wire: ResponseRequest) -> dict[str, Any]:
    """Return the fields of a response that say what was asked."""
    reasoning: JSONObject = wire.reasoning or {}
    text: JSONObject = wire.text or {}
    return {
        "background": bool(wire.background),
        "instructions": wire.instructions,
        "max_output_tokens": wire.max_output_tokens,
        "metadata": wire.metadata or {},
        "parallel_tool_calls": wire.parallel_tool_calls is not False,
        "previous_response_id": wire.previous_response_id,
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "store": wire.store is not False,
        "temperature": wire.temperature,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": wire.tool_choice or "auto",
        "tools": [_whole_tool(tool) for tool in wire.tools or ()],
        "top_logprobs": wire.top_logprobs or 0,
        "top_p": wire.top_p,
        "truncation": "disabled",
        "user": wire.user,
    }


def _tool(tool: Any) -> dict[str, Any]:
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def _whole_tool(tool: Any) -> dict[str, Any]:
    return {"description": None, "parameters": None, "strict": None, **tool}


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, dict):
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice


def _format(asked: Any) -> dict[str, Any] | None:
    if asked is None or asked["type"] != "json_schema":
        return None if asked is None else dict(asked)
    schema = {key: value for key, value in asked.items() if key != "type"}
    return {"type": "json_schema", "json_schema": schema}
