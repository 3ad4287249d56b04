"""A conversation of items as one of chat messages, and as it is kept."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from verifiers.types import JSONObject

_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}


def kept_items(given: str | Sequence[Any]) -> list[dict[str, Any]]:
    """Write items as they are listed and kept: with ids, and contents as parts."""
    items: Sequence[Any] = given
    if isinstance(given, str):
        items = [{"role": "user", "content": given}]
    return [_kept(item) for item in items]


def chat_messages(items: Sequence[JSONObject], instructions: str | None) -> list[dict[str, Any]]:
    """Write kept items as chat messages, below the instructions."""
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    thought = ""
    for item in items:
        match item["type"]:
            case "reasoning":
                thought = "".join(part["text"] for part in item["content"])
            case "function_call_output":
                said = _text(item["output"])
                call = item["call_id"]
                messages.append({"role": "tool", "tool_call_id": call, "content": said})
            case "message" if item["role"] != "assistant":
                content = [_part(part) for part in item["content"]]
                messages.append({"role": item["role"], "content": _short(content)})
            case _:
                _say(messages, item, thought)
                thought = ""
    return messages


def _kept(item: JSONObject) -> dict[str, Any]:
    kept: dict[str, Any] = {"type": "message", "status": "completed"}
    kept |= {key: value for key, value in item.items() if value is not None}
    if "id" not in kept:
        prefix = _PREFIXES.get(kept["type"], "rs")
        kept["id"] = f"{prefix}_{secrets.token_hex(12)}"
    if kept["type"] == "reasoning":
        kept = {"summary": [], "content": [], **kept}
    elif kept["type"] == "message" and isinstance(text := item["content"], str):
        part: dict[str, Any] = {"type": "input_text", "text": text}
        if item["role"] == "assistant":
            part |= {"type": "output_text", "annotations": []}
        kept["content"] = [part]
    return kept


def _say(messages: list[dict[str, Any]], item: JSONObject, thought: str) -> None:
    """Add what the assistant said or called: one turn of it is one chat message."""
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    called = item["type"] == "function_call"
    if last is None or not called:
        last = {"role": "assistant"}
        messages.append(last)
    if thought:
        last["reasoning_content"] = thought
    if called:
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        last.setdefault("tool_calls", []).append(call)
    else:
        last["content"] = _text(item["content"])


def _text(parts: str | Sequence[JSONObject]) -> str:
    if isinstance(parts, str):
        return parts
    return "".join(part.get("text") or part.get("refusal") or "" for part in parts)


def _part(part: JSONObject) -> dict[str, Any]:
    if part["type"] == "input_text":
        return {"type": "text", "text": part["text"]}
    image = {"url": part["image_url"]}
    if detail := part.get("detail"):
        image["detail"] = detail
    return {"type": "image_url", "image_url": image}


def _short(content: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Write a text alone as such: chat templates differ less in that."""
    if len(content) == 1 and content[0]["type"] == "text":
        text: str = content[0]["text"]
        return text
    return content
