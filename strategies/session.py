"""The Session: the only object that starts generations.

It counts tokens, reserves budget, keeps the deadline, seeds randomness and records events, so
that a strategy is nothing but its algorithm.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from strategies.budget import Limit, Stage
from strategies.concurrency import affordable, together
from strategies.events import EventKind
from strategies.lane import Lane
from strategies.powers import SessionPowers
from strategies.race import Desk, Race
from strategies.request import Remaining, Request
from strategies.scoring import score_new
from verifiers.errors import BudgetSpent
from verifiers.types import (
    Candidate,
    Engine,
    JSONObject,
    Prompt,
    Sampling,
    sample_seed,
)
from verifiers.votes import Votes, gather_votes

Result = TypeVar("Result")

WRITE_DOWN = "Give your final answer now, in the required form and nothing else."
"""Asked after a search that no grammar ruled."""

DIVERSITY = 0.8
"""Temperature of strategies that need different samples, where the request names none above 0."""


class Session:
    """One prompt under a request's budget. See DESIGN, "The four nouns"."""

    def __init__(
        self,
        request: Request,
        engine: Engine,
        prompt: Prompt,
        sampling: Sampling,
        *,
        n: int = 1,
        path: str = "0",
        stage: Stage = Stage.SAMPLE,
        own: bool = True,
        speaks: bool = True,
    ) -> None:
        """Open a session; `sampling` is the request's own, its `max_tokens` caps each reply.

        `own`: its candidates answer the request's own prompt. `speaks`: what it concludes is the
        answer that the client gets.
        """
        self.prompt = prompt
        self.n = n
        self._request = request
        self._engine = engine
        self._sampling = sampling
        self._path = path
        self._stage = stage
        self._own = own
        self._speaks = speaks
        self._calls = 0
        source = random.SystemRandom().getrandbits(63) if sampling.seed is None else sampling.seed
        self.rng = random.Random(sample_seed(source, path))

    @property
    def remaining(self) -> Remaining:
        """What can still be spent by this request."""
        ledger = self._request.ledger
        return Remaining(ledger.tokens, ledger.calls, ledger.budget.deadline_s - ledger.seconds)

    @property
    def spent(self) -> bool:
        """Whether a limit was reached: decide with what there is."""
        return self._request.ledger.stopped_by not in (None, Limit.DECIDED)

    @property
    def seeded(self) -> bool:
        """Whether the request can be repeated: then nothing may depend on who ends first."""
        return self._sampling.seed is not None

    def decided(self) -> None:
        """Say that the strategy stops early: more samples could hardly change the answer."""
        self._request.ledger.stopped_by = Limit.DECIDED

    async def sample(self, n: int, *, separately: bool = False, **sampling: Any) -> list[Candidate]:
        """Draw n replies; return what was paid for, unfinished ones with `done=False`.

        Keywords are fields of `Sampling`; `temperature=None` asks for diversity: the request's
        temperature if it is above 0, else 0.8.

        Raises:
            BudgetSpent: not one sample could be paid.
            EngineError: every sample failed.
        """
        return await self._draw(n, separately=separately, **sampling)

    async def extend(
        self,
        candidates: Sequence[Candidate],
        stop: Sequence[str] = (),
        *,
        tokens: int | None = None,
        **sampling: Any,
    ) -> list[Candidate]:
        """Go on with every candidate up to `stop`, `tokens` more tokens, or its end.

        The order is kept. Finished candidates come back as they are, free.

        Raises:
            BudgetSpent: there was something to extend and nothing to pay with.
            EngineError: none could be extended.
        """
        race = self._race(candidates, stop, tokens=tokens, **sampling)
        if race.lanes:
            await race.run()
        return self._merge(candidates, race)

    @asynccontextmanager
    async def race(
        self, candidates: Sequence[Candidate], stop: Sequence[str] = (), **sampling: Any
    ) -> AsyncIterator[Race]:
        """Run candidates side by side: iterate for progress, `stop` one; leaving stops the rest.

        Take fresh ones from `blank`. The race's `candidates` are how they stand at the end.

        Raises:
            BudgetSpent: nothing could be paid, or nothing was begun before the deadline.
            EngineError: every candidate failed.
        """
        race = self._race(candidates, stop, separately=True, incremental=True, **sampling)
        running = asyncio.create_task(race.run())
        try:
            yield race
        finally:
            running.cancel()
            await asyncio.wait([running])
            self._produce([each for each in race.candidates if each.tokens or each.done])
        if not running.cancelled():
            running.result()
        if race.lanes:
            self._begun(race)

    def blank(self, n: int) -> list[Candidate]:
        """Return n candidates that have not begun."""
        path = self._next_path()
        return [Candidate(f"{path}.{index}") for index in range(n)]

    def branch(self, candidates: Sequence[Candidate], widths: Sequence[int]) -> list[Candidate]:
        """Return `widths[i]` copies of candidate i, to go on with: new ids, it is their parent.

        Copies stand side by side, so that those of one candidate start together. A width of 0
        prunes it. A finished candidate is not copied: it stays, once.
        """
        grown: list[Candidate] = []
        for candidate, width in zip(candidates, widths, strict=True):
            if candidate.done or not width:
                grown.extend([candidate][:width])
            else:
                copies = self.blank(width)
                grown += [replace(candidate, id=c.id, parent=candidate.id) for c in copies]
        self.prune(each for each, width in zip(candidates, widths, strict=True) if not width)
        return grown

    def prune(self, candidates: Iterable[Candidate]) -> None:
        """Say that the algorithm goes no further with these; what is finished stays an answer."""
        for each in candidates:
            if not each.done:
                self._request.events.emit(EventKind.PRUNED, id=each.id, tokens=each.tokens)

    async def append(
        self, candidates: Sequence[Candidate], text: str, token_ids: Sequence[int] = ()
    ) -> list[Candidate]:
        """Put a text into the replies, to go on after it; one that had ended is open again.

        It costs nothing, as nobody generated it. `token_ids`: where the text is one known token.
        """
        added = tuple(token_ids) or await self._engine.tokenize(text)
        appended = [self._reopened(each, text, added) for each in candidates]
        self._produce(appended)
        return appended

    def split(self, n: int) -> list[Session]:
        """Open n sessions on the same prompt, for parts that run side by side.

        Ids and seeds of each depend on its own calls alone, whatever the others do meanwhile.
        """
        return [self._child() for _ in range(n)]

    async def side_by_side(self, work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
        """Run coroutines at the same time; return in order what those gave that could be paid.

        Raises:
            BudgetSpent: not one could be paid to its end.
        """
        outcomes = await together(affordable(each) for each in work)
        results = [result for outcome in outcomes for result in outcome]
        if not results:
            raise BudgetSpent(self._request.ledger.stopped_by or Limit.TOKENS)
        return results

    def affords(self, candidates: Sequence[Candidate]) -> bool:
        """Whether one more step of each can be paid and scored, and one be finished after.

        A quarter of the budget, but no more than the rest of a reply, is kept to finish one. Ask
        before each step: a search that ends in good time gives a whole answer.
        """
        ledger, verifier = self._request.ledger, self._request.verifier
        moving = [each for each in candidates if not each.done]
        judged = verifier.calls if verifier is not None else 0
        rest = max((self._sampling.max_tokens - each.tokens for each in moving), default=0)
        kept = min(rest, ledger.budget.max_tokens // 4)
        if ledger.calls < len(moving) * (1 + max(1, judged)) + 1:
            ledger.stopped_by = Limit.CALLS
        elif ledger.tokens + ledger.reserved <= kept:
            ledger.stopped_by = Limit.TOKENS
        elif ledger.seconds >= ledger.budget.deadline_s:
            ledger.stopped_by = Limit.DEADLINE
        else:
            return True
        return False

    async def score(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates with scores; only what is new is scored.

        What the budget cannot pay, and what the verifier abstains on, stays unscored.
        """
        request = self._request
        powers = SessionPowers(self.fork, request.service.equivalence)
        scored = await score_new(request, self.prompt, candidates, powers)
        self._produce(scored)
        return scored

    async def votes(self, candidates: Sequence[Candidate], *, weighted: bool = False) -> Votes:
        """Gather equal answers; with `weighted`, a vote weighs what its score says."""
        weights = None
        if weighted and any(each.score > 0 for each in candidates):
            weights = {each.id: max(each.score, 0.0) for each in candidates}
        request = self._request
        votes = await gather_votes(candidates, self.prompt, request.service.equivalence, weights)
        request.events.emit(
            EventKind.VOTED,
            classes=[
                {"answer": each.answer, "weight": each.weight, "votes": len(each.members)}
                for each in votes.classes
            ],
            abstentions=votes.abstentions,
        )
        if self._own:
            request.votes = votes
        return votes

    def fork(
        self,
        messages: Sequence[JSONObject],
        *,
        engine: str | None = None,
        stage: Stage | None = None,
        answers: bool = False,
        formats: bool = False,
        **sampling: Any,
    ) -> Session:
        """Open a session on another prompt: same budget, same ledger, its own seeds.

        Args:
            messages: the other prompt.
            engine: the configuration's name of another engine.
            stage: who generates, where it is not the one that generates here.
            answers: its replies answer the request's own question: they are candidates of it.
            formats: the request's tools and response format rule them; else they are left out.
            sampling: fields of `Sampling` that differ.
        """
        stage = self._stage if stage is None else stage
        own = self._sampling
        if stage is Stage.VERIFY:
            own = Sampling(max_tokens=own.max_tokens, seed=own.seed)
        elsewhere = engine is not None
        return self._child(
            engine=self._engine if engine is None else self._request.service.engines[engine],
            prompt=replace(
                self.prompt if formats else Prompt(()),
                messages=tuple(messages),
                adapter=None if elsewhere else self.prompt.adapter,
                template_arguments={} if elsewhere else self.prompt.template_arguments,
            ),
            sampling=replace(own, **sampling),
            stage=stage,
            own=answers and self._own,
        )

    def unconstrained(self) -> Session:
        """Open a session on the same prompt without its tools and format, which speaks to nobody.

        Tokens to write the answer down are kept aside: a reply, but at most a quarter of them.
        """
        ledger = self._request.ledger
        ledger.aside = min(self._sampling.max_tokens, ledger.budget.max_tokens // 4)
        ledger.calls_aside = min(self.n, ledger.budget.max_calls - 1)
        prompt = replace(self.prompt, tools=(), tool_choice=None, response_format=None)
        return self._child(prompt=prompt, n=self.n, speaks=False)

    async def write_down(
        self, found: Sequence[Candidate], asked: str = WRITE_DOWN
    ) -> list[Candidate]:
        """Have answers that were found written in the form that the request wants."""
        ledger = self._request.ledger
        ledger.aside = ledger.calls_aside = 0
        user = {"role": "user", "content": asked}
        turns = [({"role": "assistant", "content": each.content}, user) for each in found]
        forks = [
            self.fork([*self.prompt.messages, *turn], answers=True, formats=True) for turn in turns
        ]
        if len(forks) == 1:
            return await self.conclude(forks[0], self.n)
        written = await self.side_by_side(fork.sample(1) for fork in forks)
        return [each for drawn in written for each in drawn]

    async def conclude(self, source: Candidate | Session, n: int = 1) -> list[Candidate]:
        """Decide: from here on the answer streams to the client.

        A session is sampled n times; an unfinished candidate is finished; a finished one is sent.
        """
        live = self._speaks
        self._request.concluded |= live
        if isinstance(source, Session):
            return await source._draw(n, live=live)
        if source.done:
            if live:
                self._request.events.answer(0, source)
            return [source]
        race = self._race([source], live=live)
        await race.run()
        return self._merge([source], race)

    def _child(self, **changes: Any) -> Session:
        """Open a session that differs from this one in what is named."""
        given = {
            "engine": self._engine,
            "prompt": self.prompt,
            "sampling": self._sampling,
            "path": self._next_path(),
            "stage": self._stage,
            "own": self._own,
            "speaks": self._speaks,
            **changes,
        }
        return Session(self._request, **given)

    async def _draw(self, n: int, **options: Any) -> list[Candidate]:
        blank = self.blank(n)
        race = self._race(blank, **options)
        await race.run()
        return self._begun(race)

    def _begun(self, race: Race) -> list[Candidate]:
        """Record and return what was begun; raise where nothing was."""
        if self._own:
            self._request.prompt_tokens = self._request.prompt_tokens or race.prompt_tokens
        if race.failure is not None:
            raise race.failure
        drawn = [each for each in race.candidates if each.tokens or each.done]
        if not drawn:
            raise BudgetSpent(self._request.ledger.stopped_by or Limit.TOKENS)
        self._produce(drawn)
        return drawn

    def _race(
        self,
        candidates: Sequence[Candidate],
        stop: Sequence[str] = (),
        *,
        tokens: int | None = None,
        separately: bool = False,
        live: bool = False,
        **sampling: Any,
    ) -> Race:
        """Pay for the calls and line the candidates up; everything here is synchronous."""
        request = self._request
        live = live and request.events.followed
        if live:
            sampling["incremental"] = True
        drawn = self._sampling_with(**sampling)
        moving = [(i, each) for i, each in enumerate(candidates) if not each.done]
        if moving:
            if request.ledger.tokens <= 0 and not request.ledger.reserved:
                request.ledger.stop(Limit.TOKENS)
            moving = moving[: request.ledger.call(self._stage, len(moving))]
        lanes = []
        for index, candidate in moving:
            whole = drawn.max_tokens - candidate.tokens
            lanes.append(Lane.of(index, candidate, whole if tokens is None else min(whole, tokens)))
        desk = Desk(
            self._engine,
            request.ledger,
            self._stage,
            request.service.admission,
            request.ticket,
            request.events,
        )
        return Race(
            desk,
            self.prompt,
            lanes,
            drawn,
            tuple(stop),
            self._aside(len(lanes)),
            separately,
            request.events.answer if live else None,
        )

    def _sampling_with(self, **changes: Any) -> Sampling:
        if "temperature" in changes and changes["temperature"] is None:
            changes["temperature"] = self._sampling.temperature or DIVERSITY
        if self._sampling.seed is not None:
            changes["seed"] = sample_seed(self._sampling.seed, self._next_path())
        return replace(self._sampling, **changes)

    def _aside(self, lanes: int) -> int:
        """Leave the verifier what it needs for these samples, at most half of what is left."""
        verifier = self._request.verifier
        if verifier is None or self._stage is Stage.VERIFY:
            return 0
        return min(lanes * verifier.max_tokens, self._request.ledger.tokens // 2)

    def _next_path(self) -> str:
        """Name the next thing that this session does: ids and seeds depend on it."""
        path = f"{self._path}.{self._calls}"
        self._calls += 1
        return path

    def _reopened(self, candidate: Candidate, text: str, added: tuple[int, ...]) -> Candidate:
        ids = candidate.token_ids
        ended = candidate.finish_reason == "stop" and candidate.stop_reason is None
        if ended and self._engine.capabilities.end_token:
            ids = ids[:-1]
        return replace(
            candidate,
            text=candidate.text + text,
            token_ids=ids + added if ids or not candidate.text else (),
            message=None,
            finish_reason=None,
            stop_reason=None,
        )

    def _merge(self, candidates: Sequence[Candidate], race: Race) -> list[Candidate]:
        if race.failure is not None:
            raise race.failure
        if self._own:
            self._request.prompt_tokens = self._request.prompt_tokens or race.prompt_tokens
        merged = list(candidates)
        for lane, candidate in zip(race.lanes, race.candidates, strict=True):
            merged[lane.index] = candidate
        self._produce(merged)
        return merged

    def _produce(self, candidates: Sequence[Candidate]) -> None:
        if self._own:
            self._request.produced.update((each.id, each) for each in candidates)
