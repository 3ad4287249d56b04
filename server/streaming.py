"""A strategy's answer as server-sent events, from the moment it can no longer change.

Nothing is sent before there is something to say or `heartbeat_s` have passed: what fails until
then is an ordinary HTTP error, with its status. Later it is a frame with `error`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from pydantic_core import to_json

from server.convert import Order
from server.errors import error_object, log_error
from server.metrics import Metrics
from server.progress import describe_event
from server.reply import finish_reason, logprobs, scaling, usage
from strategies.base import Outcome
from strategies.events import Answer, Event
from verifiers.errors import ForethoughtError
from verifiers.types import Candidate, TokenLogprob

_log = logging.getLogger("forethought.errors")

HEARTBEAT = b": heartbeat\n\n"
DONE = b"data: [DONE]\n\n"


class Feed:
    """What a reader has not seen yet: every event, and of each choice only the latest state.

    So a client that reads slowly costs no memory, and gets several tokens in one chunk.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], Event | Answer] = {}
        self._news = asyncio.Event()
        self._ended = False

    def put(self, item: Event | Answer) -> None:
        """Listen to an event log."""
        self._waiting[type(item).__name__, item.index] = item
        self._news.set()

    def end(self, _: object = None) -> None:
        """Let the reader know that nothing follows."""
        self._ended = True
        self._news.set()

    async def read(self, patience: float) -> list[Event | Answer] | None:
        """Wait up to `patience` seconds for news; None: everything was read and it has ended."""
        if not self._waiting:
            if self._ended:
                return None
            self._news.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._news.wait()
            except TimeoutError:
                return []
        items = list(self._waiting.values())
        self._waiting.clear()
        return items if items else None  # only its end makes news without an item


class Frames(Protocol):
    """Writes one response in the form of its endpoint, piece by piece."""

    @property
    def answering(self) -> bool:
        """Whether a piece of the answer was written."""

    def opening(self) -> bytes:
        """Write what comes before everything."""

    def write(self, item: Event | Answer) -> bytes:
        """Write what is new; empty where the client did not ask for it."""

    def closing(self, outcome: Outcome) -> bytes:
        """Write what was not written yet, and how it ended."""

    def failing(self, failure: BaseException) -> bytes:
        """Write that there is no answer, or no more of it."""


class Writer:
    """Writes the chunks of one response; remembers what of each choice was sent."""

    kind = "chat.completion.chunk"

    def __init__(self, order: Order) -> None:
        self._order = order
        wire = order.wire
        self._options = wire.stream_options
        self._reasoning = wire.include_reasoning is not False
        self._top = (wire.top_logprobs or 0) if wire.logprobs else None
        self._sent: dict[str, _Sent] = {}
        self._head = to_json(
            {
                "id": order.id,
                "object": self.kind,
                "created": order.created,
                "model": order.model,
            }
        )[:-1]

    @property
    def answering(self) -> bool:
        """Whether a piece of the answer was written."""
        return bool(self._sent)

    def opening(self) -> bytes:
        """Say who speaks, for every choice that the client asked for."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(index, delta) for index in range(self._order.n))

    def write(self, item: Event | Answer) -> bytes:
        """Write what is new; empty where the client did not ask for it."""
        if isinstance(item, Answer):
            return self._piece(item.index, item.candidate)
        progress = self._options.include_progress if self._options else False
        if not progress:
            return b""
        if progress == "text":
            text = "" if self.answering else describe_event(item)
            delta = {"reasoning_content": text, "reasoning": text}
            return self._chunk(0, delta) if text else b""
        event = {"index": item.index, "seconds": item.seconds, "kind": item.kind, "data": item.data}
        return self._frame({"choices": [], "scaling": {"event": event}})

    def closing(self, outcome: Outcome) -> bytes:
        """Write what was not streamed yet, how each choice ended, and what it all cost."""
        order, frames = self._order, []
        for place, choice in enumerate(outcome.choices):
            sent = self._sent.get(choice.id)
            index = place if sent is None else sent.index
            frames.append(self._piece(index, choice))
            if choice.tool_calls:
                frames.append(self._chunk(index, {"tool_calls": _calls(choice)}))
            told = None
            if place == len(outcome.choices) - 1:
                told = {"scaling": scaling(order, outcome)}
            frames.append(self._chunk(index, {}, finish=finish_reason(choice), beside=told))
        if self._options and self._options.include_usage:
            frames.append(self._frame({"choices": [], "usage": usage(order, outcome)}))
        return b"".join((*frames, DONE))

    def failing(self, failure: BaseException) -> bytes:
        """Write the error, on which openai-python raises."""
        return error_frame(failure, self._order.id)

    def _piece(self, index: int, candidate: Candidate) -> bytes:
        sent = self._sent.get(candidate.id)
        if sent is None:
            sent = self._sent[candidate.id] = _Sent(index)
        delta = sent.news(candidate, reasoning=self._reasoning)
        new = candidate.logprobs[sent.logprobs :] if self._top is not None else ()
        if not delta and not new:
            return b""
        sent.logprobs += len(new)
        return self._chunk(index, delta, self._logprobs(index, new) if new else None)

    def _logprobs(self, index: int, new: Sequence[TokenLogprob]) -> dict[str, Any]:  # noqa: ARG002
        return logprobs(new, self._top or 0)

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None = None,
        finish: str | None = None,
        beside: Mapping[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._frame({"choices": [choice], **(beside or {})})

    def _frame(self, body: Mapping[str, Any]) -> bytes:
        return b"data: %b,%b\n\n" % (self._head, to_json(body, inf_nan_mode="null")[1:])


class _Sent:
    """How far a choice has been sent."""

    __slots__ = ("content", "index", "logprobs", "reasoning")

    def __init__(self, index: int) -> None:
        self.index = index
        self.content = self.reasoning = self.logprobs = 0

    def news(self, candidate: Candidate, *, reasoning: bool) -> dict[str, str]:
        delta = {}
        if reasoning and (thought := candidate.reasoning[self.reasoning :]):
            self.reasoning += len(thought)
            delta["reasoning_content"] = delta["reasoning"] = thought
        if content := candidate.content[self.content :]:
            self.content += len(content)
            delta["content"] = content
        return delta


async def stream(
    order: Order,
    work: Coroutine[Any, Any, Outcome],
    heartbeat_s: float,
    metrics: Metrics,
    writer: Frames | None = None,
) -> AsyncGenerator[bytes, None]:
    """Do the work and yield what to send; closing the generator stops the work.

    `writer`: of another endpoint than chat's.

    Raises:
        Exception: what the work raised before anything was sent.
    """
    feed, writer, ledger = Feed(), writer or Writer(order), order.request.ledger
    order.request.events.subscribe(feed.put)
    doing = asyncio.create_task(work)
    doing.add_done_callback(feed.end)
    clock = asyncio.get_running_loop().time
    due, begun = clock() + heartbeat_s, False
    try:
        while (items := await feed.read(due - clock())) is not None:
            answering = writer.answering
            frames = b"".join(map(writer.write, items))
            if writer.answering and not answering:
                metrics.first_token(order.name, ledger.seconds)
            if frames or clock() >= due:
                yield (b"" if begun else writer.opening()) + (frames or HEARTBEAT)
                due, begun = clock() + heartbeat_s, True
        failure = doing.exception()
        if failure is None:
            yield (b"" if begun else writer.opening()) + writer.closing(doing.result())
        elif begun:
            metrics.error(type(failure).__name__)
            yield writer.failing(failure)
        else:
            raise failure
    finally:
        doing.cancel()
        await asyncio.wait((doing,))


def error_frame(failure: BaseException, request_id: str) -> bytes:
    """End a stream with an error; openai-python raises on it."""
    return b"data: %b\n\n%b" % (to_json(error_object(told_failure(failure, request_id))), DONE)


def told_failure(failure: BaseException, request_id: str) -> ForethoughtError:
    """Log why a stream failed; return what its client is told: nothing of a fault of ours."""
    if isinstance(failure, ForethoughtError):
        log_error(failure, request_id)
        return failure
    _log.error("%s: a stream failed", request_id, exc_info=failure)
    return ForethoughtError("the server failed")


def _calls(choice: Candidate) -> list[dict[str, Any]]:
    return [{"index": place, **call} for place, call in enumerate(choice.tool_calls)]
