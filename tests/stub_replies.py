"""What the stub upstream says: replies from a fixed pool, cut by the request's own limits."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from pydantic_core import to_json

JSON = Mapping[str, Any]

_POOL = 512
_WORDS = ("so", "then", "7", "+", "12", "=", "19", "gives", "hence", "step", "two")
_TOKEN = re.compile(r" ?\S+|\s+")


class Limits(NamedTuple):
    """The fields of a request that cut a reply."""

    max_tokens: int
    stop: tuple[str, ...]
    keep_stop: bool
    logprobs: int | None


class Reply(NamedTuple):
    """One planned reply: its visible pieces, one per token, and its choice as JSON."""

    pieces: tuple[str, ...]
    finish_reason: str
    stop_reason: str | None
    logprobs: tuple[JSON, ...] | None
    json: bytes = b""
    """All of a whole answer's choice but its index."""
    tool_call: JSON | None = None


def reply_to(body: JSON, index: int, limits: Limits) -> Reply:
    """Plan sample `index` of a request."""
    if (name := _forced_tool(body)) is not None:
        arguments = json.dumps({"x": _choice(body, index) % 5})
        reply = plan(arguments, limits)
        return reply._replace(
            tool_call={"name": name, "arguments": arguments}, finish_reason="tool_calls"
        )
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        return plan(json.dumps(_instance(form["json_schema"]["schema"])), limits)
    if (regex := (body.get("structured_outputs") or {}).get("regex")) is not None:
        return plan(f"matches {regex}", limits)
    text = pool_text(_choice(body, index))
    begun = body["messages"][-1]["content"] if body.get("continue_final_message") else ""
    if "prompt" in body:
        begun = _overlap(str(body["prompt"]), text)
    return plan(text.removeprefix(begun), limits)


def count_prompt(body: JSON) -> int:
    """Count words, and three tokens of template a message, but none to end one that goes on.

    A plain prompt has no template.
    """
    if isinstance(prompt := body.get("prompt"), str):
        return len(prompt.split())
    if prompt is not None:
        return len(prompt)
    words = sum(len(str(message.get("content") or "").split()) for message in body["messages"])
    turns = 3 * len(body["messages"]) + 3
    return words + turns - (6 if body.get("continue_final_message") else 0)


@lru_cache(_POOL)
def pool_text(choice: int) -> str:
    """Give one of the pool's replies: 8 to 60 words that end in a boxed number."""
    draw = random.Random(choice)
    words = draw.choices(_WORDS, k=draw.randint(8, 60))
    words[4] += "\n\n"
    return f"{' '.join(words)} \\boxed{{{draw.choice((42, 42, 42, 12, 12, 7))}}}"


@lru_cache(8 * _POOL)
def plan(text: str, limits: Limits) -> Reply:
    """Cut a reply by its limits, token by token."""
    whole = tuple(_TOKEN.findall(text)) or ("",)
    pieces, finish_reason, stop_reason = whole[: limits.max_tokens], "stop", None
    if len(pieces) < len(whole):
        finish_reason = "length"
    cut = "".join(pieces)
    found = [(cut.find(stop), stop) for stop in limits.stop if stop in cut]
    if found:
        at, stop_reason = min(found)
        finish_reason = "stop"
        pieces = _pieces_until(pieces, at, at + len(stop_reason), limits.keep_stop)
    logprobs = tuple(_logprob(piece, limits.logprobs) for piece in whole[: len(pieces)])
    reply = Reply(pieces, finish_reason, stop_reason, None if limits.logprobs is None else logprobs)
    return reply._replace(json=to_json(choice(reply))[1:])


def choice(reply: Reply, reasoning: str | None = None) -> dict[str, Any]:
    """Give the choice of a whole answer, as vLLM writes it, without its index."""
    message: dict[str, Any] = {"role": "assistant", "content": "".join(reply.pieces)}
    message["reasoning"] = reasoning
    if reply.tool_call is not None:
        call = {"id": "call_stub", "type": "function", "function": reply.tool_call}
        message |= {"content": None, "tool_calls": [call]}
    return {
        "message": message,
        "logprobs": None if reply.logprobs is None else {"content": reply.logprobs},
        "finish_reason": reply.finish_reason,
        "stop_reason": reply.stop_reason,
    }


def _overlap(prompt: str, text: str) -> str:
    """Return what of the text the prompt ends with already."""
    lengths = (size for size in range(len(text), 0, -1) if prompt.endswith(text[:size]))
    return text[: next(lengths, 0)]


def _pieces_until(pieces: tuple[str, ...], start: int, end: int, keep: bool) -> tuple[str, ...]:
    shown, kept = end if keep else start, []
    place = 0
    for piece in pieces:
        kept.append(piece[: max(0, shown - place)])
        place += len(piece)
        if place >= end:
            break
    return tuple(kept)


def _logprob(piece: str, k: int | None) -> JSON:
    chance = 0.5 + sum(piece.encode()) % 97 / 200
    top = [{"token": piece, "logprob": -1.0 + chance, "bytes": list(piece.encode())}]
    top += [
        {"token": f"{piece}~{r}", "logprob": -1.0 - r, "bytes": [126]} for r in range(1, k or 0)
    ]
    return {**top[0], "top_logprobs": top[: k or 0]}


def _choice(body: JSON, index: int) -> int:
    begun = bool(body.get("continue_final_message"))
    messages = body["messages"][:-1] if begun else body["messages"]
    key = b"%d %s" % ((body.get("seed") or 0) + index, to_json(messages))
    return int.from_bytes(blake2b(key, digest_size=4).digest()) % _POOL


def _forced_tool(body: JSON) -> str | None:
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping):
        return str(choice["function"]["name"])
    return str(body["tools"][0]["function"]["name"]) if choice == "required" else None


def _instance(schema: JSON) -> Any:
    """Make the smallest instance of a simple schema."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: _instance(part) for name, part in schema.get("properties", {}).items()}
        case "array":
            return []
        case "boolean":
            return True
        case "integer" | "number":
            return 42
    return "text"
