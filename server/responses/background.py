"""Responses with `"background": true`: how they are worked on, polled and followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server.background.work import Status, Work
from server.convert import Order
from server.reply import completion
from server.responses.events import ResponseWriter, event_frame
from server.responses.reply import failed, finished
from server.streaming import Frames
from strategies.base import Outcome
from verifiers.types import JSONObject

KIND = "response"


class ResponseForm:
    """Background requests of the responses' endpoint.

    A worker that takes over ends the item that the last one left, and goes on with the next index:
    a client that puts the items together sees one response.
    """

    kind = KIND
    end = b""

    def beginning(self, work: Work, past: Sequence[JSONObject]) -> list[JSONObject]:
        """End what an earlier turn left, and say that the answer begins."""
        events = [
            {"type": "response.output_item.done", "output_index": index, "item": item}
            for index, item in _left(past).items()
        ]
        return [*events, {"type": "response.in_progress", "response": self.shown(work)}]

    def writer(self, order: Order, work: Work, past: Sequence[JSONObject]) -> Frames:
        """Write items behind those of earlier turns."""
        added = [each for each in past if each["type"] == "response.output_item.added"]
        return ResponseWriter(order, new_of(work), _key(work), len(added))

    def answer(self, order: Order, outcome: Outcome, work: Work) -> JSONObject:
        """Keep the whole response."""
        return finished(new_of(work), completion(order, outcome), _key(work))

    def shown(self, work: Work) -> dict[str, Any]:
        """Return the response as it is now."""
        if work.value["answer"] is not None:
            return dict(work.value["answer"])
        if work.status is Status.FAILED:
            return failed(new_of(work), work.value["error"])
        return {**new_of(work), "status": work.status}

    def last(self, work: Work) -> JSONObject:
        """Return the event that ends the stream; a cancelled response is an incomplete one."""
        response = self.shown(work)
        status = "incomplete" if work.status is Status.CANCELLED else response["status"]
        return {"type": f"response.{status}", "response": response}

    def frame(self, number: int, event: JSONObject) -> bytes:
        """Write an event; sequence numbers begin with 0."""
        return event_frame({**event, "sequence_number": number - 1})


def new_of(work: Work) -> JSONObject:
    """Return the response as it was before there was an answer."""
    response: JSONObject = work.value["about"]["response"]
    return response


def item_key(response_id: str, turn: int = 0) -> str:
    """Return what the ids of a response's items are made of: other ones in every turn."""
    key = response_id.partition("_")[2]
    return f"{key}{turn:x}" if turn > 1 else key


def _key(work: Work) -> str:
    return item_key(work.id, work.turn)


def _left(past: Sequence[JSONObject]) -> dict[int, JSONObject]:
    """Find the items that events have begun and not ended, by their index."""
    left: dict[int, JSONObject] = {}
    for event in past:
        if event["type"] == "response.output_item.added":
            left[event["output_index"]] = {**event["item"], "status": "incomplete"}
        elif event["type"] == "response.output_item.done":
            del left[event["output_index"]]
    return left
