"""A chat completion as a response, and a response that is none yet."""

from __future__ import annotations

import time
from typing import Any

from server.responses.request import repeated
from server.responses.wire import ResponseRequest
from verifiers.types import JSONObject

_CODES = {"invalid_request_error": "invalid_prompt", "rate_limit_error": "rate_limit_exceeded"}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def new_response(response_id: str, wire: ResponseRequest, model: str) -> dict[str, Any]:
    """Write a response down before there is an answer."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "usage": None,
        **repeated(wire),
    }


def finished(new: JSONObject, completion: JSONObject, key: str) -> dict[str, Any]:
    """Write the answer into a response; `key` makes the ids of its items, as in its events."""
    choice, seconds = completion["choices"][0], completion["scaling"]["seconds"]
    reason = _INCOMPLETE.get(choice["finish_reason"])
    return {
        **new,
        "status": "incomplete" if reason else "completed",
        "completed_at": None if reason else int(new["created_at"] + seconds),
        "incomplete_details": {"reason": reason} if reason else None,
        "output": output_items(choice, key),
        "usage": _usage(completion["usage"]),
        "scaling": completion["scaling"],
    }


def failed(new: JSONObject, error: JSONObject) -> dict[str, Any]:
    """Write into a response why there is no answer; `error` is one of our error objects."""
    return {**new, "status": "failed", "error": response_error(error)}


def response_error(error: JSONObject) -> dict[str, Any]:
    """Write an error object down as a response holds it, with one of the codes that it knows."""
    return {**error, "code": _CODES.get(error["type"], "server_error")}


def output_items(choice: JSONObject, key: str) -> list[dict[str, Any]]:
    """Write a choice as items: what was thought, what was said, what is to be called."""
    message = choice["message"]
    items: list[dict[str, Any]] = []
    status = "incomplete" if choice["finish_reason"] in _INCOMPLETE else "completed"
    calls = message.get("tool_calls") or ()
    if thought := message.get("reasoning"):
        whole = "completed" if message["content"] or calls else status
        items.append(reasoning_item(key, thought, whole))
    if message["content"] or not calls:
        logprobs = (choice["logprobs"] or {}).get("content") or []
        items.append(message_item(key, message["content"] or "", status, logprobs))
    items += [call_item(key, place, call) for place, call in enumerate(calls)]
    return items


def reasoning_item(key: str, text: str, status: str) -> dict[str, Any]:
    """Write down what was thought."""
    content = [{"type": "reasoning_text", "text": text}]
    item = {"id": f"rs_{key}", "type": "reasoning", "summary": [], "content": content}
    return {**item, "status": status}


def message_item(key: str, text: str, status: str, logprobs: list[Any]) -> dict[str, Any]:
    """Write down what was said."""
    return {
        "id": f"msg_{key}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [text_part(text, logprobs)],
    }


def text_part(text: str, logprobs: list[Any]) -> dict[str, Any]:
    """Write down a text that was said."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def call_item(key: str, place: int, call: JSONObject) -> dict[str, Any]:
    """Write down what is to be called."""
    return {
        "id": f"fc_{key}_{place}",
        "type": "function_call",
        "call_id": call["id"],
        "name": call["function"]["name"],
        "arguments": call["function"]["arguments"],
        "status": "completed",
    }


def _usage(usage: JSONObject) -> dict[str, Any]:
    """Count as the chat line does: the prompt once. What caches gave is in `scaling.usage`."""
    details = usage["completion_tokens_details"]
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": details["reasoning_tokens"]},
        "total_tokens": usage["total_tokens"],
    }
