"""Chat requests with `"background": true`: an id at once, the completion later."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from server.background.work import Work, Works, public
from server.convert import Order, take_order
from server.identity import Identity
from server.reply import completion
from server.state import State
from server.streaming import DONE, Frames, Writer
from server.wire import ChatRequest
from strategies.base import Outcome
from verifiers.types import JSONObject

KIND = "background"


class ChatForm:
    """Background requests of the chat endpoint: their events are the chunks of a stream.

    An event with the request itself begins every turn; what came before it is void.
    """

    kind = KIND
    end = DONE

    def beginning(self, work: Work, past: Sequence[JSONObject]) -> list[JSONObject]:  # noqa: ARG002
        """Say that an answer begins."""
        return [self.shown(work)]

    def writer(self, order: Order, work: Work, past: Sequence[JSONObject]) -> Frames:  # noqa: ARG002
        """Write chunks as for a stream."""
        return Writer(order)

    def answer(self, order: Order, outcome: Outcome, work: Work) -> JSONObject:  # noqa: ARG002
        """Keep the completion."""
        return completion(order, outcome)

    def shown(self, work: Work) -> dict[str, Any]:
        """Tell how far it is, with the completion once there is one."""
        value = work.value
        return {
            "id": work.id,
            "object": KIND,
            "status": work.status,
            "model": value["about"]["model"],
            "strategy": value["about"]["strategy"],
            **public(work),
            "expires_at": value["expires_at"],
            "turn": work.turn,
            "completion": value["answer"],
            "error": value["error"],
        }

    def last(self, work: Work) -> JSONObject:
        """Tell the same as a poll."""
        return self.shown(work)

    def frame(self, number: int, event: JSONObject) -> bytes:
        """Write an event with its number, which a client that comes back sends."""
        return b"id: %d\ndata: %b\n\n" % (number, to_json(event))


async def submit_chat(
    wire: ChatRequest, state: State, identity: Identity, strategy: str | None
) -> Work:
    """Take a chat request on that can be served. Raises BadRequest."""
    # Its answer is written as it comes: whoever follows it may ask what a stream tells beside it.
    wire = wire.model_copy(update={"stream": True, "background": None})
    order = await take_order(wire, state, strategy, time.monotonic(), identity=identity)
    about = {"model": order.model, "strategy": order.name}
    request = wire.model_dump(mode="json", exclude_unset=True)
    works = Works(state.store, state.settings.background)
    work_id = f"bg_{secrets.token_hex(12)}"
    return await works.submit(KIND, work_id, identity.owner, request, about, strategy=strategy)
