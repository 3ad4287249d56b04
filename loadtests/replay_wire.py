"""The replay upstream on the wire: what a request asks for, and answers as vLLM writes them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from loadtests.pools import Sample
from loadtests.replay_cut import Limits, Reply
from verifiers.errors import BadRequest
from verifiers.types import JSONObject

_IMPOSSIBLE = ("continue_final_message", "response_format", "structured_outputs", "tools")
_WITHOUT_EFFECT: tuple[Any, ...] = (None, False, [], {"type": "text"})

_Stop = Annotated[str, Field(min_length=1)]


class StreamOptions(BaseModel):
    """What a stream is to count."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Message(BaseModel):
    """One turn; of its parts only the texts matter here."""

    role: str
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """All text of the turn."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(part.get("text") or "") for part in self.content or ())


class ChatBody(BaseModel):
    """The fields of a chat request that a recorded reply can follow; the others do nothing."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    messages: list[Message]
    n: PositiveInt | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: _Stop | list[_Stop] | None = None
    include_stop_str_in_output: bool | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def questions(self) -> list[str]:
        """The user's messages, the last first."""
        return [each.text for each in reversed(self.messages) if each.role == "user"]

    @property
    def limits(self) -> Limits:
        """What shapes the replies."""
        return Limits(
            self.max_completion_tokens or self.max_tokens,
            (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            bool(self.include_stop_str_in_output),
            (self.top_logprobs or 0) if self.logprobs else None,
        )


def read_body(content: bytes) -> ChatBody:
    """Read a request. Raises BadRequest, also where no recorded reply could obey it."""
    try:
        body = ChatBody.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadRequest(first["msg"], param=".".join(map(str, first["loc"]))) from error
    for name in _IMPOSSIBLE:
        if (body.model_extra or {}).get(name) not in _WITHOUT_EFFECT:
            raise BadRequest("a recorded reply cannot obey this", param=name)
    return body


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Count: the prompt once, however many samples."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def head(kind: str, model: str, first: Sample) -> dict[str, Any]:
    """Give what an answer and its chunks begin with; the id names the first sample."""
    name = f"chatcmpl-{first.problem}-{first.sample}"
    return {"id": name, "object": kind, "created": int(time.time()), "model": model}


def choice(index: int, reply: Reply) -> JSONObject:
    """Give a choice of a whole answer."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": reply.text},
        "logprobs": None if reply.logprobs is None else {"content": reply.logprobs},
        "finish_reason": reply.finish_reason,
        "stop_reason": reply.stop_reason,
    }


def timed_chunks(
    replies: Sequence[Reply], prompt_tokens: int, options: StreamOptions
) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield a stream's chunks without their head, each at its second, tokens at even distances."""
    for index in range(len(replies)):
        opening = {"choices": [_delta(index, {"role": "assistant", "content": ""})]}
        yield 0.0, opening | _live_count(prompt_tokens, 0, options)
    timetable = sorted(
        (reply.seconds * (place + 1) / len(reply.tokens), place, index)
        for index, reply in enumerate(replies)
        for place in range(len(reply.tokens))
    )
    pieces = [reply.pieces for reply in replies]
    for second, place, index in timetable:
        reply = replies[index]
        event = _delta(index, {"content": pieces[index][place]})
        if reply.logprobs is not None:
            event["logprobs"] = {"content": reply.logprobs[place : place + 1]}
        if place + 1 == len(reply.tokens):
            event |= {"finish_reason": reply.finish_reason, "stop_reason": reply.stop_reason}
        yield second, {"choices": [event]} | _live_count(prompt_tokens, place + 1, options)
    if options.include_usage:
        total = sum(len(reply.tokens) for reply in replies)
        last = max((second for second, _, _ in timetable), default=0.0)
        yield last, {"choices": [], "usage": usage(prompt_tokens, total)}


def _delta(index: int, delta: JSONObject) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _live_count(prompt_tokens: int, tokens: int, options: StreamOptions) -> dict[str, Any]:
    """Count one reply so far, as vLLM does: not the others of the group."""
    return {"usage": usage(prompt_tokens, tokens)} if options.continuous_usage_stats else {}
