"""Find out at start what an OpenAI-compatible server really does, by asking it little things."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.engines import http_plain
from server.engines.http_upstream import Upstream
from verifiers.errors import BadRequest, EngineError
from verifiers.types import Capabilities, Continuation

_QUESTION = [{"role": "user", "content": "Count from 1 to 9."}]
_BEGUN = {"role": "assistant", "content": "1, 2, 3, 4, 5,"}
_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
_SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
_TOOL = {
    "type": "function",
    "function": {
        "name": "begin",
        "description": "Begin.",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}
_UNKNOWN_CONTEXT = 32_768


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probes found: for strategies to see, and for the adapter's own use."""

    capabilities: Capabilities
    stream_options: Mapping[str, bool] | None
    tokenizes: bool
    salts: bool
    """It takes a `cache_salt`."""


async def probe(upstream: Upstream, model: str) -> Probed:
    """Probe one model of a server; what it does not answer well, it cannot do.

    Raises EngineUnavailable where nothing answers, EngineError where our key is refused.
    """
    cards = await _model_cards(upstream)
    card = next((card for card in cards if card.get("id") == model), {})
    probes = _Probes(upstream, model)
    async with asyncio.TaskGroup() as group:
        together = group.create_task(probes.together())
        logprobs = group.create_task(probes.logprobs())
        seeds = group.create_task(probes.seeds())
        continuation = group.create_task(probes.continuation())
        grammars = group.create_task(probes.grammars())
        tools = group.create_task(probes.tools())
        plain = group.create_task(probes.plain())
        stream_options = group.create_task(probes.stream_options())
        tokenizes = group.create_task(probes.tokenizes())
        salts = group.create_task(probes.salts())
    capabilities = Capabilities(
        context_length=card.get("max_model_len") or _UNKNOWN_CONTEXT,
        continuation=continuation.result(),
        seeds=seeds.result(),
        logprobs=logprobs.result(),
        grammars=grammars.result(),
        tools=tools.result(),
        plain=plain.result(),
        together=together.result(),
        adapters=tuple(card["id"] for card in cards if card.get("parent") == model),
    )
    return Probed(capabilities, stream_options.result(), tokenizes.result(), salts.result())


async def _model_cards(upstream: Upstream) -> list[Mapping[str, Any]]:
    """Read the list of models, which also shows whether anything answers and knows our key."""
    try:
        listed = await upstream.get("/models")
    except BadRequest:
        return []
    cards = listed.get("data") if isinstance(listed, dict) else None
    return [card for card in cards or () if isinstance(card, dict)]


class _Probes:
    def __init__(self, upstream: Upstream, model: str) -> None:
        self._upstream = upstream
        self._model = model

    async def together(self) -> bool:
        answer = await self._ask(n=2)
        return answer is not None and len(answer["choices"]) == 2

    async def logprobs(self) -> int | None:
        for most in (20, 5, 0):
            answer = await self._ask(logprobs=True, top_logprobs=most)
            if answer and (answer["choices"][0].get("logprobs") or {}).get("content"):
                return most
        return None

    async def seeds(self) -> bool:
        """Draw the same eight tokens twice at a temperature at which they would else differ."""
        first, second = [
            await self._ask(seed=7, temperature=1.5, max_tokens=8, top_p=1.0) for _ in range(2)
        ]
        return first is not None and second is not None and _said(first) == _said(second)

    async def continuation(self) -> Continuation:
        """See whether the flags shorten the prompt: no end of turn, no header of a new turn."""
        messages = [*_QUESTION, _BEGUN]
        anew = await self._ask(messages=messages)
        gone_on = await self._ask(messages=messages, **_CONTINUE)
        if anew and gone_on and 0 < _prompt_tokens(gone_on) < _prompt_tokens(anew):
            return Continuation.TEXT
        return Continuation.NONE

    async def grammars(self) -> bool:
        schema = {"name": "probe", "schema": _SCHEMA}
        form = {"type": "json_schema", "json_schema": schema}
        answer = await self._ask(response_format=form, max_tokens=32)
        if answer is None:
            return False
        try:
            return set(json.loads(_said(answer))) == {"ok"}
        except (ValueError, TypeError):
            return False

    async def tools(self) -> bool:
        answer = await self._ask(tools=[_TOOL], tool_choice="required", max_tokens=64)
        return answer is not None and bool(answer["choices"][0]["message"].get("tool_calls"))

    async def plain(self) -> bool:
        body = {"model": self._model, "prompt": "Once", "max_tokens": 1}
        try:
            answer = await self._upstream.post(http_plain.PATH, body)
        except (BadRequest, EngineError):
            return False
        match answer:
            case {"choices": [{"text": str()}, *_]}:
                return True
        return False

    async def stream_options(self) -> Mapping[str, bool] | None:
        plain = {"include_usage": True}
        for options in (plain | {"continuous_usage_stats": True}, plain):
            body = self._body(stream=True, stream_options=options)
            try:
                async for _ in self._upstream.stream("/chat/completions", body):
                    pass
            except (BadRequest, EngineError):
                continue
            return options
        return None

    async def salts(self) -> bool:
        return await self._ask(cache_salt="probe") is not None

    async def tokenizes(self) -> bool:
        body = {"model": self._model, "messages": _QUESTION}
        try:
            counted = await self._upstream.post_beside("/tokenize", body)
        except (BadRequest, EngineError):
            return False
        return isinstance(counted, dict) and isinstance(counted.get("count"), int)

    def _body(self, **fields: Any) -> dict[str, Any]:
        return {"model": self._model, "messages": _QUESTION, "max_tokens": 1} | fields

    async def _ask(self, **fields: Any) -> Mapping[str, Any] | None:
        """Ask for a completion; None where it is refused or is not one."""
        try:
            answer = await self._upstream.post("/chat/completions", self._body(**fields))
        except (BadRequest, EngineError):
            return None
        return answer if _is_completion(answer) else None


def _is_completion(answer: Any) -> bool:
    match answer:
        case {"choices": [{"message": {}}, *_]}:
            return True
    return False


def _said(answer: Mapping[str, Any]) -> str:
    return str(answer["choices"][0]["message"].get("content") or "")


def _prompt_tokens(answer: Mapping[str, Any]) -> int:
    return int((answer.get("usage") or {}).get("prompt_tokens") or 0)
