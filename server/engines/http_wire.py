"""OpenAI's chat completions on the wire: our request as their body, their replies as our chunks.

Upstream bodies are read without schema validation, as it would cost more than all else here;
a body of another shape raises EngineError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from operator import itemgetter
from typing import Any

from server.engines.http_plain import plain_fields
from verifiers.errors import BadRequest, EngineError, EngineUnavailable
from verifiers.types import (
    TOKEN_IDS,
    Chunk,
    FinishReason,
    JSONObject,
    Message,
    Prompt,
    Sampling,
    TokenLogprob,
    Usage,
    sample_seed,
)

_OTHERWISE_SAID = (
    "stop",
    "keep_stop",
    "seed",
    "first",
    "logprobs",
    "reply_logprobs",
    "incremental",
)
_SAME_NAME = tuple(field.name for field in fields(Sampling) if field.name not in _OTHERWISE_SAID)
_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_TOKEN, _LOGPROB = itemgetter("token"), itemgetter("logprob")
_TOKEN_AND_LOGPROB = itemgetter("token", "logprob")
_UNCOUNTED = Usage(exact=False)


def prompt_fields(prompt: Prompt) -> dict[str, Any]:
    """Give the part of a body that says what is asked; `/tokenize` takes it too."""
    if prompt.plain:
        return plain_fields(prompt)
    messages = tuple(
        {key: value for key, value in each.items() if key != TOKEN_IDS} for each in prompt.messages
    )
    body: dict[str, Any] = {"messages": messages}
    if prompt.tools:
        body["tools"] = prompt.tools
    if prompt.template_arguments:
        body["chat_template_kwargs"] = prompt.template_arguments
    if prompt.reply is not None:
        body["messages"] = (*messages, {"role": "assistant", "content": prompt.reply.text})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def request_fields(prompt: Prompt, sampling: Sampling, first: int, n: int) -> dict[str, Any]:
    """Give the body for the samples `first` to `first + n`, with only the fields that are set.

    Upstreams draw sample i of a group with seed + i. So the seed is one hash for all, of 31 bits
    for upstreams with short integers, plus the place: however split, a sample has one seed.
    """
    body = prompt_fields(prompt)
    for name in _SAME_NAME:
        if (value := getattr(sampling, name)) not in (None, ()):
            body[name] = value
    if sampling.stop:
        body["stop"] = sampling.stop
        if sampling.keep_stop:
            body["include_stop_str_in_output"] = True
    if sampling.seed is not None:
        body["seed"] = (sample_seed(sampling.seed, "group") >> 32) + sampling.first + first
    if sampling.logprobs is not None and prompt.plain:
        body["logprobs"] = sampling.logprobs
    elif sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    if n > 1:
        body["n"] = n
    return body | _constraints(prompt)


def _constraints(prompt: Prompt) -> dict[str, Any]:
    constraints: dict[str, Any] = {}
    if prompt.tool_choice is not None:
        constraints["tool_choice"] = prompt.tool_choice
    if prompt.parallel_tool_calls is not None:
        constraints["parallel_tool_calls"] = prompt.parallel_tool_calls
    if prompt.response_format is not None:
        if prompt.response_format.get("type") == "regex":
            constraints["structured_outputs"] = {"regex": prompt.response_format["regex"]}
        else:
            constraints["response_format"] = prompt.response_format
    return constraints


@contextmanager
def _shape_errors() -> Iterator[None]:
    """Say of a body of another shape that the engine answered badly."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise EngineError(f"the upstream's answer is no chat completion: {error!r}") from error


def whole_replies(data: Any, first: int, n: int) -> list[Chunk]:
    """Read a completion of the samples `first` to `first + n`; a choice left out is a failure.

    The upstream counts the group as a whole. Its count is shared out by the log-probabilities
    given, else by length of text, so that the sum stays exact.
    """
    with _shape_errors():
        chunks = [_whole_reply(choice, first) for choice in data["choices"]]
        if not chunks:
            raise ValueError("no choices")
        missing = set(range(first, first + n)).difference(chunk.index for chunk in chunks)
        if len(chunks) + len(missing) != n:
            raise ValueError("choices of the wrong indexes")
        usages = _shared_usage(data.get("usage"), chunks)
    failure = EngineError("the upstream gave fewer choices than were asked for")
    counted = [replace(chunk, usage=usage) for chunk, usage in zip(chunks, usages, strict=True)]
    return [*counted, *(Chunk(index, error=failure) for index in sorted(missing))]


def _whole_reply(choice: JSONObject, first: int) -> Chunk:
    """Read one choice; where the upstream parsed the reply, its raw text is the parts in order."""
    message = choice["message"]
    content, reasoning = _text(message.get("content")), _reasoning(message)
    index = first + choice["index"]
    calls = tuple(
        _tool_call(call, index, k) for k, call in enumerate(message.get("tool_calls") or ())
    )
    return Chunk(
        index,
        reasoning + content,
        logprobs=_logprobs(choice),
        message=Message(content, reasoning, calls) if reasoning or calls else None,
        finish_reason=_FINISH_REASONS[choice["finish_reason"]],
        stop_reason=choice.get("stop_reason"),
    )


def _shared_usage(usage: JSONObject | None, chunks: Sequence[Chunk]) -> list[Usage]:
    if usage is None:
        return [_UNCOUNTED] * len(chunks)
    total = _usage(usage)
    weights = [len(chunk.logprobs) for chunk in chunks]
    if sum(weights) != total.completion_tokens:
        weights = [len(chunk.text) + 1 for chunk in chunks]
    shares, given, seen = [], 0, 0
    for weight in weights:
        seen += weight
        upto = total.completion_tokens * seen // sum(weights)
        shares.append(Usage(completion_tokens=upto - given))
        given = upto
    return [replace(total, completion_tokens=shares[0].completion_tokens), *shares[1:]]


def token_count(data: Any) -> int:
    """Read the answer of `/tokenize`."""
    with _shape_errors():
        return int(data["count"])


class StreamedReply:
    """Puts one streamed sample together: each event's news as a chunk, the rest with the last."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._content = self._reasoning = ""
        self._calls: dict[int, dict[str, str]] = {}
        self._finish_reason: FinishReason | None = None
        self._stop_reason: str | int | None = None
        self._counted, self._reported = Usage(), Usage()
        self._exact = False

    def feed(self, event: Mapping[str, Any]) -> Chunk | None:
        """Take in one event; None where it brings no text."""
        text = ""
        logprobs: tuple[TokenLogprob, ...] = ()
        with _shape_errors():
            for choice in event["choices"]:
                delta = choice["delta"]
                content, reasoning = _text(delta.get("content")), _reasoning(delta)
                self._content += content
                self._reasoning += reasoning
                text, logprobs = reasoning + content, _logprobs(choice)
                for call in delta.get("tool_calls") or ():
                    self._call(call)
                if (finish_reason := choice.get("finish_reason")) is not None:
                    self._finish_reason = _FINISH_REASONS[finish_reason]
                    self._stop_reason = choice.get("stop_reason")
            if event.get("usage") is not None:
                self._counted = _usage(event["usage"])
                self._exact = self._finish_reason is not None
        if not text and not logprobs:
            return None
        message = Message(self._content, self._reasoning) if self._reasoning else None
        return Chunk(self._index, text, (), logprobs, message, usage=self.news())

    def end(self) -> Chunk:
        """Give what only the whole reply has: tool calls, the reason of its end, the last count."""
        if self._finish_reason is None:
            raise EngineError("the upstream ended a reply in mid-stream")
        with _shape_errors():
            calls = tuple(
                _tool_call({"id": call["id"], "function": call}, self._index, place)
                for place, call in sorted(self._calls.items())
            )
        return Chunk(
            self._index,
            message=(
                Message(self._content, self._reasoning, calls) if self._reasoning or calls else None
            ),
            finish_reason=self._finish_reason,
            stop_reason=self._stop_reason,
            usage=replace(self.news(), exact=self._exact),
        )

    def _call(self, delta: JSONObject) -> None:
        function = delta.get("function") or {}
        call = self._calls.setdefault(delta["index"], {"id": "", "name": "", "arguments": ""})
        call["id"] = call["id"] or _text(delta.get("id"))
        call["name"] += _text(function.get("name"))
        call["arguments"] += _text(function.get("arguments"))

    def news(self) -> Usage:
        """Give what was counted since this was last asked."""
        old, new = self._reported, self._counted
        self._reported = new
        return Usage(
            0,
            new.prompt_tokens - old.prompt_tokens,
            new.cached_tokens - old.cached_tokens,
            new.completion_tokens - old.completion_tokens,
        )


def failed_reply(index: int, error: BadRequest | EngineError, usage: Usage) -> Chunk:
    """End a sample with an error; unless it never began, tokens went uncounted."""
    exact = isinstance(error, BadRequest | EngineUnavailable)
    return Chunk(index, usage=replace(usage, exact=exact), error=error)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {type(value).__name__}")
    return value


def _reasoning(message: JSONObject) -> str:
    """Read the thinking: `reasoning` in vLLM, `reasoning_content` in others."""
    return _text(message.get("reasoning")) or _text(message.get("reasoning_content"))


def _tool_call(call: JSONObject, index: int, place: int) -> JSONObject:
    function = call["function"]
    return {
        "id": call.get("id") or f"call_{index}_{place}",
        "type": "function",
        "function": {"name": _text(function["name"]), "arguments": _text(function["arguments"])},
    }


def _logprobs(choice: JSONObject) -> tuple[TokenLogprob, ...]:
    """Read the log-probabilities: the hottest lines here, 240 tokens in a group of eight."""
    content = (choice.get("logprobs") or {}).get("content") or ()
    tokens, logprobs = map(_TOKEN, content), map(_LOGPROB, content)
    if not content or not content[0].get("top_logprobs"):
        return tuple(map(TokenLogprob, tokens, logprobs))
    tops = (tuple(map(_TOKEN_AND_LOGPROB, entry["top_logprobs"])) for entry in content)
    return tuple(map(TokenLogprob, tokens, logprobs, tops))


def _usage(usage: JSONObject) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=details.get("cached_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
    )
