"""Generations under way: the one place where an engine is asked, tokens booked, slots held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from strategies.admission import Admission, Ticket
from strategies.budget import Ledger, Limit, Stage
from strategies.events import EventKind, EventLog
from strategies.lane import Lane
from verifiers.concurrency import task_group
from verifiers.errors import EngineError, EngineTimeout, ForethoughtError
from verifiers.types import (
    Candidate,
    Capabilities,
    Chunk,
    Continuation,
    Engine,
    Prompt,
    Reply,
    Sampling,
    sample_seed,
)


@dataclass(frozen=True, slots=True)
class Desk:
    """Where samples are ordered: the engine, and the request's account, place and record."""

    engine: Engine
    ledger: Ledger
    stage: Stage
    admission: Admission
    ticket: Ticket
    events: EventLog
    cache_salt: str | None = None


@dataclass(eq=False, slots=True)
class Race:
    """Several candidates going on at once, under one budget.

    The tokens that are left are shared out in rounds. A reservation is the sample's cap, or an
    equal share of what is left; it is made before the first await. A sample that its share cut
    goes on by token ids with what others gave back, until nothing is left: so nothing is cut
    before the budget is used. No more samples start than can get a quarter of their cap, because
    many beginnings make no answer. Where a reply cannot be continued, samples start only with
    their whole cap. Rounds end together, which keeps a seeded run independent of timing.
    """

    desk: Desk
    prompt: Prompt
    lanes: list[Lane]
    sampling: Sampling
    """`max_tokens` is the cap of a whole reply."""
    pauses: tuple[str, ...] = ()
    """Stop strings that end a step, not the reply."""
    aside: int = 0
    """Tokens left to the verifier."""
    separately: bool = False
    """Every sample is a generation of its own, so that it can be stopped alone."""
    listener: Callable[[int, Candidate], None] | None = None
    """Told of every piece, with the lane's index."""
    prompt_tokens: int = 0
    """Length of the prompt of a fresh sample, once the engine has told."""
    _progress: asyncio.Queue[Lane | None] = field(default_factory=asyncio.Queue)

    async def run(self) -> None:
        """Go on with every lane until it rests, the budget is spent or the deadline passes."""
        ledger = self.desk.ledger
        try:
            async with asyncio.timeout(ledger.deadline - ledger.received - ledger.seconds) as limit:
                while lanes := await self._next_round():
                    await self._round(lanes)
        except TimeoutError:
            if not limit.expired():
                raise
            ledger.stopped_by = Limit.DEADLINE
        finally:
            self._progress.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Candidate]:
        """Yield each candidate as it stands whenever it has grown."""
        while (lane := await self._progress.get()) is not None:
            yield lane.snapshot()

    def stop(self, candidate: Candidate) -> None:
        """End this candidate now; it stays as it stands, not done."""
        for lane in self.lanes:
            if lane.start.id == candidate.id and not lane.ended:
                lane.stopped = lane.ended = True
                self.desk.events.emit(EventKind.PRUNED, id=candidate.id, tokens=lane.tokens)
                if lane.task is not None:
                    lane.task.cancel()

    @property
    def candidates(self) -> list[Candidate]:
        """The candidates as they stand, in order; those that failed are as they were before."""
        return [lane.start if lane.error else lane.snapshot() for lane in self.lanes]

    @property
    def failure(self) -> ForethoughtError | None:
        """The first error, where every candidate failed: one that fails costs only itself."""
        errors = [lane.error for lane in self.lanes if lane.error is not None]
        return errors[0] if errors and len(errors) == len(self.lanes) else None

    async def _next_round(self) -> list[Lane]:
        """Choose who goes on, and reserve for them; wait for what other races may give back."""
        live = [lane for lane in self.lanes if not lane.ended]
        ledger = self.desk.ledger
        while live and (rest := ledger.tokens - self.aside) <= 0 and ledger.reserved:
            await ledger.changed()
        if not live:
            return []
        if rest <= 0:
            self.desk.ledger.stopped_by = Limit.TOKENS
            return []
        live.sort(key=lambda lane: (lane.blank, lane.index))
        cap = max(lane.cap - lane.tokens for lane in live)
        least = min(cap, self.sampling.max_tokens // 4) if self.continuable else cap
        chosen = live[: max(1, rest // max(1, least))]
        share = rest // len(chosen)
        for lane in chosen:
            lane.task = None
            wanted = min(lane.cap - lane.tokens, share)
            lane.reservation = self.desk.ledger.reserve(self.desk.stage, wanted)
        return chosen

    @property
    def continuable(self) -> bool:
        """Whether a reply that was cut can go on as if it had not been."""
        return can_continue(self.desk.engine.capabilities, self.prompt, self.sampling)

    async def _round(self, lanes: Sequence[Lane]) -> None:
        try:
            async with task_group() as group:
                for wave in self._waves(lanes):
                    await self._start(wave, group)
        finally:
            for lane in lanes:
                self._settle(lane)

    async def _start(self, wave: Sequence[Lane], group: asyncio.TaskGroup) -> None:
        """Start a wave as the admission lets it; the generations run in `group`."""
        desk = self.desk
        while wave := [lane for lane in wave if not lane.ended and lane.task is None]:
            granted = await desk.admission.acquire(desk.ticket, len(wave))
            ready = [lane for lane in wave[:granted] if not lane.ended]
            desk.admission.release(desk.ticket, granted - len(ready))
            for lane in ready:
                lane.began = desk.ledger.seconds if lane.began is None else lane.began
            for lanes in self._groups(ready):
                task = group.create_task(self._pump(lanes))
                for lane in lanes:
                    lane.task = task

    def _waves(self, lanes: Sequence[Lane]) -> list[list[Lane]]:
        """Neighbours that start from the same state, with the same length, start together."""
        waves: list[list[Lane]] = []
        for lane in lanes:
            if waves and waves[-1][-1].continues_like(lane):
                waves[-1].append(lane)
            else:
                waves.append([lane])
        return waves

    def _groups(self, wave: list[Lane]) -> list[list[Lane]]:
        return [[lane] for lane in wave] if self.separately or not wave else [wave]

    async def _pump(self, lanes: Sequence[Lane]) -> None:
        """Read one generation to its end; give each lane's slot back as soon as it rests."""
        desk = self.desk
        held = set(lanes)
        try:
            async with aclosing(desk.engine.generate(*self._order(lanes[0]), len(lanes))) as chunks:
                async for chunk in chunks:
                    lane = lanes[chunk.index]
                    self._advance(lane, chunk)
                    if lane.reservation is None:
                        held.discard(lane)
                        desk.admission.release(desk.ticket)
            for lane in held:
                self._fail(lane, EngineError("the engine stopped without ending the sample"))
        except ForethoughtError as error:
            for lane in held:
                self._fail(lane, error)
        finally:
            desk.admission.release(desk.ticket, len(held))
            for lane in held:
                self._settle(lane)

    def _order(self, lane: Lane) -> tuple[Prompt, Sampling]:
        assert lane.reservation is not None
        sampling = replace(
            self.sampling,
            max_tokens=lane.reservation.tokens,
            stop=self.sampling.stop + self.pauses,
            keep_stop=bool(self.pauses),
            first=lane.index,
        )
        prompt = self.prompt
        if self.desk.cache_salt is not None:
            prompt = replace(prompt, cache_salt=self.desk.cache_salt)
        if lane.blank:
            return prompt, sampling
        if sampling.seed is not None:
            place = f"after {lane.start.tokens + lane.tokens}"
            sampling = replace(sampling, seed=sample_seed(sampling.seed, place))
        reply = Reply(lane.text, tuple(lane.token_ids))
        return replace(prompt, reply=reply), sampling

    def _advance(self, lane: Lane, chunk: Chunk) -> None:
        assert lane.reservation is not None
        if lane.blank and chunk.usage.prompt_tokens:
            self.prompt_tokens = chunk.usage.prompt_tokens
        lane.reservation.book(chunk.usage)
        lane.take(chunk)
        if chunk.error is not None:
            if not isinstance(chunk.error, ForethoughtError):
                raise chunk.error
            self._fail(lane, chunk.error)
        elif chunk.finish_reason is not None:
            self._rest(lane, chunk)
        if self.listener is not None:
            self.listener(lane.index, lane.snapshot())
        self._progress.put_nowait(lane)

    def _rest(self, lane: Lane, chunk: Chunk) -> None:
        """Tell the reply's own end from the end of a step and from a cut by the budget.

        A step that ends with the last token that the reply may have is its end too.
        """
        assert lane.reservation is not None
        whole = lane.start.tokens + lane.tokens
        cut = chunk.finish_reason == "length" and lane.reservation.used >= lane.reservation.tokens
        paused = chunk.finish_reason == "stop" and chunk.stop_reason in self.pauses
        full = whole >= self.sampling.max_tokens
        if full or not (paused or cut):
            lane.finish_reason = "length" if paused else chunk.finish_reason
        lane.stop_reason = chunk.stop_reason
        lane.ended = not cut or lane.tokens >= lane.cap or not self.continuable
        lane.reservation.close()
        lane.reservation = None
        if lane.ended:
            self._tell(lane)

    def _fail(self, lane: Lane, error: ForethoughtError) -> None:
        lane.error = error
        lane.ended = True
        if lane.reservation is not None:
            heard = lane.reservation.used > 0 or isinstance(error, EngineTimeout)
            lane.reservation.close(exact=not heard)
            lane.reservation = None
        self.desk.events.emit(
            EventKind.FAILED,
            began=lane.began,
            id=lane.start.id,
            model=self.desk.engine.model,
            type=type(error).__name__,
            error=error.message,
        )

    def _settle(self, lane: Lane) -> None:
        """Close the account of a lane that was stopped from outside."""
        if lane.reservation is None:
            return
        asked = lane.task is not None
        live = self.sampling.incremental and self.desk.engine.capabilities.counts_live
        lane.reservation.close(exact=live or not asked)
        lane.reservation = None
        if lane.tokens:
            self._tell(lane)

    def _tell(self, lane: Lane) -> None:
        candidate = lane.snapshot()
        self.desk.events.emit(
            EventKind.SAMPLED,
            began=lane.began,
            id=candidate.id,
            parent=candidate.parent,
            stage=self.desk.stage,
            model=self.desk.engine.model,
            text=candidate.text,
            tokens=candidate.tokens,
            mean_logprob=candidate.mean_logprob if candidate.logprobs else None,
            finish_reason=candidate.finish_reason,
        )


def can_continue(capabilities: Capabilities, prompt: Prompt, sampling: Sampling) -> bool:
    """Whether a cut reply can go on: grammars and penalties would start afresh."""
    possible = capabilities.continuation is not Continuation.NONE
    return possible and not prompt.constrained and not sampling.restarts
