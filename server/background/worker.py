"""Works on background requests: those that are queued, and those that a dead replica leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from pydantic_core import from_json, to_json

from server.answering import perform
from server.background.form import Form, payloads
from server.background.journal import past_events
from server.background.work import QUEUE, Status, Work, Works
from server.convert import Order, take_order
from server.crew import Again, Crew, Done, Terms, Verdict
from server.errors import error_object, log_error
from server.identity import Identity
from server.keys.ring import identity_of_owner
from server.state import State
from server.store.base import StoreUnavailable
from server.store.jobs import Claim
from server.streaming import Feed, Frames
from server.wire import ChatRequest
from strategies.base import Outcome
from verifiers.errors import DeadlinePassed, ForethoughtError, Overloaded
from verifiers.types import JSONObject

POLL_S = 0.25
"""Between two looks for work, and between two looks whether ours was cancelled."""
PACE_S = 0.05
"""Between two entries into the event stream: tokens that come faster share one."""
_NOT_OURS = Again(0.0)
"""Gives back a claim that, as a rule, holds no more: the job of another's turn is not done."""
_FAULT = 500
"""From this status on another attempt may do better."""


class Worker:
    """Works in this process on background requests of all replicas."""

    def __init__(self, state: State, forms: Mapping[str, Form]) -> None:
        self._state = state
        self._forms = forms
        self._settings = state.settings.background
        self._works = Works(state.store, self._settings)
        terms = Terms(
            QUEUE, self._settings.lease_s, self._settings.attempts, POLL_S, self._settings.backoff_s
        )
        self._terms = terms
        self._crew = Crew(state.store.jobs, terms, self.work, self._room)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work while the block lasts; then hand back what is not done."""
        running = asyncio.create_task(self._crew.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait((running,))

    def _room(self, held: int) -> int:
        return 0 if self._state.draining.begun else self._settings.at_once - held

    async def work(self, claim: Claim) -> Verdict:
        """Do one job, until it is done, cancelled, or another's."""
        work = await self._works.begin(claim.job.body["kind"], claim.job.id)
        if work is None:
            await self._works.forget_job(claim.job.id)
            return Done({})
        try:
            return await self._while_ours(work, claim)
        except asyncio.CancelledError:  # the server ends, or the lease is lost
            await self._hand_back(work)
            raise

    async def _while_ours(self, work: Work, claim: Claim) -> Verdict:
        doing = asyncio.create_task(self._do(work, claim))
        watching = asyncio.create_task(self._lost(work))
        try:
            await asyncio.wait((doing, watching), return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else _NOT_OURS
        finally:
            doing.cancel()
            watching.cancel()
            await asyncio.wait((doing, watching))

    async def _lost(self, work: Work) -> None:
        """Wait until it is ours no more."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                if await self._works.still(work, work.turn) is None:
                    return
            except StoreUnavailable:
                continue

    async def _do(self, work: Work, claim: Claim) -> Verdict:
        form = self._forms[work.kind]
        try:
            with self._state.in_flight.request():
                answer = await self._answer(work, form)
        except StoreUnavailable:
            raise
        except ForethoughtError as error:
            self._state.metrics.error(type(error).__name__)
            log_error(error, work.id)
            return await self._failed(work, claim, error)
        plain = from_json(to_json(answer, inf_nan_mode="null"))
        await self._works.end(work, Status.COMPLETED, answer=plain)
        return Done({})

    async def _answer(self, work: Work, form: Form) -> JSONObject:
        state = self._state
        wire = ChatRequest.model_validate_json(to_json(work.value["request"]))
        identity = await identity_of_owner(work.record.owner, state)
        strategy = work.value["strategy"]
        order = await take_order(wire, state, strategy, time.monotonic(), identity=identity)
        past = await past_events(state.store, work.id) if work.turn > 1 else []
        await self._tell(work, form.beginning(work, past))
        outcome = await self._run(order, form.writer(order, work, past), work, identity)
        return form.answer(order, outcome, work)

    async def _run(self, order: Order, writer: Frames, work: Work, identity: Identity) -> Outcome:
        """Run the strategy and enter what it says as it comes; the run does not wait for that."""
        feed = Feed()
        order.request.events.subscribe(feed.put)
        doing = asyncio.create_task(perform(order, self._state, identity))
        doing.add_done_callback(feed.end)
        try:
            await self._tell(work, payloads(writer.opening()))
            while (items := await feed.read(self._state.settings.heartbeat_s)) is not None:
                await self._tell(work, payloads(b"".join(map(writer.write, items))))
                await asyncio.sleep(PACE_S)
            outcome = doing.result()
            await self._tell(work, payloads(writer.closing(outcome)))
            return outcome
        finally:
            doing.cancel()
            await asyncio.wait((doing,))

    async def _tell(self, work: Work, events: list[JSONObject]) -> None:
        """Enter events, whenever the store takes them."""
        while True:
            try:
                await self._works.append(work.id, work.turn, [{"event": each} for each in events])
                return
            except StoreUnavailable:
                await asyncio.sleep(POLL_S)

    async def _failed(self, work: Work, claim: Claim, error: ForethoughtError) -> Verdict:
        """End it with the error, or let it wait where the next attempt may do better."""
        pause = self._terms.pause(claim.attempt)
        if isinstance(error, Overloaded):  # no work was done: that is no attempt
            await self._hand_back(work)
            return Again(max(pause, error.retry_after))
        passing = error.status >= _FAULT and not isinstance(error, DeadlinePassed)
        if passing and claim.attempt < self._settings.attempts:
            await self._hand_back(work)
            return Again(pause, error.message)
        await self._works.end(work, Status.FAILED, error=error_object(error)["error"])
        return Done({})

    async def _hand_back(self, work: Work) -> None:
        try:
            await self._works.hand_back(work)
        except StoreUnavailable:
            return  # its next worker begins all the same
