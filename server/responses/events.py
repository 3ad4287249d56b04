"""A response as OpenAI's events: what is thought and said as it comes, and what is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic_core import to_json

from server.convert import Order
from server.errors import error_object
from server.reply import completion, logprobs
from server.responses.reply import (
    failed,
    finished,
    message_item,
    reasoning_item,
)
from server.streaming import told_failure
from strategies.base import Outcome
from strategies.events import Answer, Event
from verifiers.types import Candidate, JSONObject

Part: TypeAlias = Literal["reasoning", "message"]
_DELTA: dict[Part, str] = {
    "reasoning": "response.reasoning_text",
    "message": "response.output_text",
}


_OPENING = ("response.created", "response.in_progress")


class _Open(NamedTuple):
    """The item that is being written."""

    part: Part
    id: str
    place: int
    """Its index among the items."""


class ResponseWriter:
    """Writes the events of one response."""

    def __init__(
        self, order: Order, new: JSONObject, key: str, first_item: int | None = None
    ) -> None:
        """`new` is the response as it begins; `key` makes the ids of its items.

        With the index of its first item it is a part of more: the response has been announced, and
        somebody else tells how it ends.
        """
        self._order, self._new, self._key = order, new, key
        self._part_of_more = first_item is not None
        self._number = 0 if self._part_of_more else len(_OPENING)
        self._index = first_item or 0
        self._open: _Open | None = None
        self._said: dict[Part, int] = {"reasoning": 0, "message": 0}
        self._logprobs = 0

    @property
    def answering(self) -> bool:
        """Whether a piece of the answer was written."""
        return any(self._said.values())

    def opening(self) -> bytes:
        """Announce the response, with the first numbers, whenever this is asked for."""
        if self._part_of_more:
            return b""
        return b"".join(
            event_frame({"type": kind, "sequence_number": number, "response": self._new})
            for number, kind in enumerate(_OPENING)
        )

    def write(self, item: Event | Answer) -> bytes:
        """Write what is new of the answer."""
        if not isinstance(item, Answer) or item.index > 0:
            return b""
        return b"".join(self._advance(item.candidate))

    def closing(self, outcome: Outcome) -> bytes:
        """Write what was not written yet, and the whole response."""
        choice = outcome.choices[0]
        body = finished(self._new, completion(self._order, outcome), self._key)
        frames = list(self._advance(choice))
        for item in body["output"]:
            frames += self._end(item)
        if not self._part_of_more:
            frames.append(self._frame(f"response.{body['status']}", response=body))
        return b"".join(frames)

    def failing(self, failure: BaseException) -> bytes:
        """Write that there is no answer."""
        told = told_failure(failure, self._order.id)
        response = failed(self._new, error_object(told)["error"])
        return self._frame("response.failed", response=response)

    def _advance(self, candidate: Candidate) -> Iterator[bytes]:
        """Write what is new of a reply: thinking ends where the answer begins."""
        if candidate.reasoning and not self._said["message"]:
            yield from self._more("reasoning", candidate.reasoning)
        if candidate.content:
            if self._open is not None and self._open.part == "reasoning":
                thought = reasoning_item(self._key, candidate.reasoning, "completed")
                yield from self._done(thought)
            new = self._new_logprobs(candidate)
            yield from self._more("message", candidate.content, logprobs=new)

    def _more(self, part: Part, text: str, **told: Any) -> Iterator[bytes]:
        if not (new := text[self._said[part] :]):
            return
        if self._open is None:
            yield from self._begin(part)
        self._said[part] = len(text)
        yield self._part_frame(f"{_DELTA[part]}.delta", delta=new, **told)

    def _begin(self, part: Part) -> Iterator[bytes]:
        if part == "reasoning":
            item = reasoning_item(self._key, "", "in_progress")
        else:
            item = message_item(self._key, "", "in_progress", [])
        self._open = _Open(part, item["id"], self._index)
        self._index += 1
        yield self._item_frame("added", {**item, "content": []})
        yield self._part_frame("response.content_part.added", part=item["content"][0])

    def _end(self, item: dict[str, Any]) -> Iterator[bytes]:
        """Write an item's end; of one that was not begun, all of it."""
        if item["type"] == "function_call":
            yield from self._call(item)
        elif self._open is not None and self._open.id == item["id"]:
            yield from self._done(item)
        elif item["type"] == "message" and not self._said["message"]:
            yield from self._begin("message")
            yield from self._done(item)

    def _done(self, item: dict[str, Any]) -> Iterator[bytes]:
        assert self._open is not None
        part = item["content"][0]
        told = {key: part[key] for key in ("text", "logprobs") if key in part}
        yield self._part_frame(f"{_DELTA[self._open.part]}.done", **told)
        yield self._part_frame("response.content_part.done", part=part)
        yield self._item_frame("done", item)
        self._open = None

    def _call(self, item: dict[str, Any]) -> Iterator[bytes]:
        """Write a call in one piece: it is found once the whole reply is there."""
        self._open = _Open("message", item["id"], self._index)
        self._index += 1
        place = {"item_id": item["id"], "output_index": self._open.place}
        yield self._item_frame("added", {**item, "arguments": "", "status": "in_progress"})
        kind, arguments = "response.function_call_arguments", item["arguments"]
        yield self._frame(f"{kind}.delta", **place, delta=arguments)
        yield self._frame(f"{kind}.done", **place, arguments=arguments, name=item["name"])
        yield self._item_frame("done", item)
        self._open = None

    def _new_logprobs(self, candidate: Candidate) -> list[Any]:
        wire, new = self._order.wire, candidate.logprobs[self._logprobs :]
        if not wire.logprobs:
            return []
        self._logprobs += len(new)
        told: list[Any] = logprobs(new, wire.top_logprobs or 0)["content"]
        return told

    def _item_frame(self, what: Literal["added", "done"], item: JSONObject) -> bytes:
        assert self._open is not None
        return self._frame(f"response.output_item.{what}", output_index=self._open.place, item=item)

    def _part_frame(self, kind: str, **told: Any) -> bytes:
        assert self._open is not None
        place = {"item_id": self._open.id, "output_index": self._open.place, "content_index": 0}
        return self._frame(kind, **place, **told)

    def _frame(self, kind: str, **told: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event_frame({"type": kind, "sequence_number": number, **told})


def event_frame(event: JSONObject) -> bytes:
    """Write an event as OpenAI does, under its name."""
    content = to_json(event, inf_nan_mode="null")
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), content)
