"""`POST /v1/responses`: the chat line with OpenAI's newer face, and conversations that are kept."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response

from server.answering import perform
from server.background.journal import follow
from server.background.work import Status, Works
from server.body import parse_request, read_body
from server.chat import event_stream, json_response
from server.convert import Order, take_order
from server.disconnect import while_connected
from server.errors import NotFound
from server.identity import Identity, identity_of
from server.renaming import renamed
from server.reply import completion
from server.responses.background import KIND, ResponseForm, item_key
from server.responses.conversation import kept_items
from server.responses.events import ResponseWriter
from server.responses.reply import finished, new_response
from server.responses.request import LOGPROBS, as_chat
from server.responses.wire import REFUSED, RENAMED, ResponseRequest
from server.state import State
from server.store.base import StoreUnavailable
from server.streaming import stream
from server.wire import ChatRequest
from strategies.base import Outcome
from verifiers.errors import BadRequest
from verifiers.types import JSONObject

_log = logging.getLogger("forethought.responses")


@dataclass(frozen=True, slots=True)
class Creation:
    """A response that is asked for, understood."""

    state: State
    identity: Identity
    wire: ResponseRequest
    chat: ChatRequest
    strategy: str | None
    """The one that the URL names."""
    order: Order
    new: JSONObject
    """The response, before there is an answer."""
    items: Sequence[JSONObject]
    """The conversation that it answers."""

    @property
    def works(self) -> Works:
        """Where it is kept."""
        return Works(self.state.store, self.state.settings.background)

    @property
    def about(self) -> JSONObject:
        """What is kept of it beside the answer."""
        return {"response": self.new, "input": self.items}

    def answered(self, outcome: Outcome) -> dict[str, Any]:
        """Return the whole response."""
        key = item_key(self.new["id"])
        return finished(self.new, completion(self.order, outcome), key)


async def create(http: Request) -> Response:
    """Answer, whole, as a stream of events, or in the background."""
    received = time.monotonic()
    state: State = http.app.state.forethought
    body = await read_body(http, state.settings.limits.body_bytes)
    wire = parse_request(ResponseRequest, body, REFUSED)
    with renamed(RENAMED):
        identity, strategy = identity_of(http), http.path_params.get("strategy")
        asked = await _understood(wire, state, identity, strategy, received)
        if wire.background:
            return await _in_background(http, asked)
        order = asked.order
        http.scope["strategy"], http.scope["ledger"] = order.name, order.request.ledger
        if wire.store is not False:
            await state.store.check()  # better now than when all is paid for
        if wire.stream:
            writer = ResponseWriter(order, asked.new, item_key(asked.new["id"]))
            work, heartbeat_s = _work(asked), state.settings.heartbeat_s
            frames = stream(order, work, heartbeat_s, state.metrics, writer)
            return await event_stream(http, frames)
        outcome = await while_connected(_work(asked), http.receive)
    return json_response(asked.answered(outcome))


async def answer_response(
    body: bytes, state: State, identity: Identity, strategy: str | None = None
) -> dict[str, Any]:
    """Answer the body of a request whole, without HTTP. Raises ForethoughtError."""
    wire = parse_request(ResponseRequest, body, REFUSED)
    with renamed(RENAMED):
        asked = await _understood(wire, state, identity, strategy, time.monotonic())
        return asked.answered(await _work(asked))


async def _understood(
    wire: ResponseRequest, state: State, identity: Identity, strategy: str | None, received: float
) -> Creation:
    if wire.background and wire.store is False:
        raise BadRequest("what is done in the background is stored", param="store")
    if wire.top_logprobs and LOGPROBS not in (wire.include or ()):
        raise BadRequest(f"`top_logprobs` needs `include: [{LOGPROBS!r}]`", param="top_logprobs")
    works = Works(state.store, state.settings.background)
    items = [*await _before(wire, works, identity.owner), *kept_items(wire.input)]
    chat = as_chat(wire, items)
    order = await take_order(chat, state, strategy, received, identity=identity)
    new = new_response(f"resp_{secrets.token_hex(12)}", wire, order.model)
    return Creation(state, identity, wire, chat, strategy, order, new, items)


async def _before(wire: ResponseRequest, works: Works, owner: str) -> list[JSONObject]:
    """Return the conversation of the response that this one follows."""
    name = wire.previous_response_id
    if name is None:
        return []
    try:
        work = await works.find(KIND, name, owner)
    except NotFound as error:
        raise BadRequest(
            error.message, param="previous_response_id", code="previous_response_not_found"
        ) from None
    if work.value["answer"] is None:
        told = f"{name!r} has no answer that could be followed: it is {work.status}"
        raise BadRequest(told, param="previous_response_id")
    return [*work.value["about"]["input"], *work.value["answer"]["output"]]


async def _work(asked: Creation) -> Outcome:
    """Answer, and keep the answer where that is wanted."""
    outcome = await perform(asked.order, asked.state, asked.identity)
    if asked.wire.store is not False:
        about = {
            "request": None,
            "strategy": asked.strategy,
            "about": asked.about,
            "answer": from_json(to_json(asked.answered(outcome), inf_nan_mode="null")),
        }
        owner, name = asked.identity.owner, asked.new["id"]
        try:
            await asked.works.keep(KIND, name, owner, Status.COMPLETED, about)
        except StoreUnavailable:  # it was there a moment ago, and the answer is paid for
            _log.error("%s is not kept: the store does not answer", name)
    return outcome


async def _in_background(http: Request, asked: Creation) -> Response:
    """Take it on; one that is to stream is followed at once."""
    new = {**asked.new, "status": Status.QUEUED}
    kinds = ("response.created", "response.queued")
    work = await asked.works.submit(
        KIND,
        new["id"],
        asked.identity.owner,
        asked.chat.model_dump(mode="json", exclude_unset=True),
        {**asked.about, "response": new},
        [{"type": kind, "response": new} for kind in kinds],
        strategy=asked.strategy,
    )
    if not asked.wire.stream:
        return json_response(ResponseForm().shown(work))
    heartbeat_s = asked.state.settings.heartbeat_s
    frames = follow(asked.state.store, asked.works, ResponseForm(), work, 0, heartbeat_s)
    return await event_stream(http, frames)
