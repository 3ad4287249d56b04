"""The Session: the only object that starts generations.

It counts tokens, reserves budget, keeps the deadline, seeds randomness and records events, so
that a strategy is nothing but its algorithm.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from strategies.allocation import Table
from strategies.budget import Limit, Stage
from strategies.concurrency import lossy, together
from strategies.events import EventKind
from strategies.lane import Lane
from strategies.powers import SessionPowers
from strategies.race import Desk, Race
from strategies.request import Drawing, Remaining, Request
from strategies.scoring import score_new
from verifiers.errors import BudgetSpent, EngineError
from verifiers.types import (
    Candidate,
    Capabilities,
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
        parts: int = 1,
        stock: Sequence[Candidate] = (),
    ) -> None:
        """Open a session; `sampling` is the request's own, its `max_tokens` caps each reply.

        `own`: its candidates answer the request's own prompt. `speaks`: what it concludes is the
        answer that the client gets. `parts`: how many like this run side by side. `stock`: replies
        of the same request that count as drawn here, if they would be drawn just so.
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
        self._parts = parts
        self._stock = list(stock)
        self._reused: set[str] = set()
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

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens with which the engine ends a reply, where it has ids."""
        return self._engine.capabilities.end_tokens

    @property
    def cap(self) -> int:
        """The most tokens of a reply."""
        return self._sampling.max_tokens

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._engine.capabilities

    @property
    def tables(self) -> Mapping[str, Table]:
        """What samples are best spent on, by name of the table."""
        return self._request.service.tables

    @property
    def concluded(self) -> bool:
        """Whether the client has begun to hear the answer."""
        return self._request.concluded

    @property
    def reported(self) -> Votes | None:
        """The last vote over answers to the request's own prompt: the client is told of it."""
        return self._request.votes

    def report(self, votes: Votes | None) -> None:
        """Let the client be told of this vote, or of none."""
        if self._own:
            self._request.votes = votes

    def chosen(self, strategy: JSONObject | None, **why: Any) -> None:
        """Record which inner strategy goes on, and by what; None: it stops here."""
        self._request.events.emit(EventKind.CHOSEN, strategy=strategy, **why)

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
        given = self.reusable(n, **sampling)
        if not given:
            return await self._draw(n, separately=separately, **sampling)
        if len(given) < n:
            work = self._draw(n - len(given), separately=separately, **sampling)
            for drawn in await lossy(work, []):
                given += drawn
        return given

    def reusable(self, n: int, **sampling: Any) -> list[Candidate]:
        """Take up to n replies that were drawn before this part began, as `sample` would draw them.

        They are free. Each is given once.
        """
        wanted = self._drawing(self._asked(**sampling))
        given = [each for each in self._stock if self._request.drawn.get(each.id) == wanted][:n]
        self._stock = [each for each in self._stock if each not in given]
        self._reused.update(each.id for each in given)
        return given

    async def extend(
        self,
        candidates: Sequence[Candidate],
        stop: Sequence[str] = (),
        *,
        tokens: int | None = None,
        keep: int = 0,
        **sampling: Any,
    ) -> list[Candidate]:
        """Go on with every candidate up to `stop`, `tokens` more tokens, or its end.

        The order is kept. Finished candidates come back as they are, free. `keep`: tokens of the
        budget that are left for later.

        Raises:
            BudgetSpent: there was something to extend and nothing to pay with.
            EngineError: none could be extended.
        """
        race = self._race(candidates, stop, tokens=tokens, keep=keep, **sampling)
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
        self,
        candidates: Sequence[Candidate],
        text: str,
        token_ids: Sequence[int] = (),
        *,
        instead_of: str = "",
    ) -> list[Candidate]:
        """Put a text into the replies, to go on after it; one that had ended is open again.

        It costs nothing, as nobody generated it. `token_ids`: where the text is one known token.
        `instead_of`: what is taken off first, where a reply ends with it.
        """
        added = tuple(token_ids) or await self._engine.tokenize(text)
        reopened = [await self._reopened(each, instead_of) for each in candidates]
        appended = [
            replace(
                each,
                text=each.text + text,
                token_ids=each.token_ids + added if each.token_ids or not each.text else (),
            )
            for each in reopened
        ]
        self._produce(appended)
        return appended

    def split(self, n: int, *, speaks: bool = True) -> list[Session]:
        """Open n sessions on the same prompt, for parts that run side by side.

        Ids and seeds of each depend on its own calls alone, whatever the others do meanwhile.
        What one of several concludes is not yet the client's answer; nor, where it does not
        speak, what the only one does.
        """
        speaks = self._speaks and speaks and n == 1
        return [self._child(parts=self._parts * n, speaks=speaks) for _ in range(n)]

    async def side_by_side(self, work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
        """Run coroutines at the same time; return in order what those gave that came to their end.

        Raises:
            BudgetSpent: not one could be paid to its end.
            EngineError: some failed, and none came to its end.
        """
        errors: list[EngineError] = []
        outcomes = await together(lossy(each, errors) for each in work)
        results = [result for outcome in outcomes for result in outcome]
        if errors and not results:
            raise errors[0]
        if not results:
            raise BudgetSpent(self._request.ledger.stopped_by or Limit.TOKENS)
        return results

    def affords(self, candidates: Sequence[Candidate]) -> bool:
        """Whether one more step of each can be paid and scored, and one be finished after.

        Ask before each step: a search that ends in good time gives a whole answer. A part of a
        search leaves as much for every other part.
        """
        ledger, verifier = self._request.ledger, self._request.verifier
        moving = [each for each in candidates if not each.done]
        judged = verifier.calls if verifier is not None else 0
        least = self.kept(moving, self._parts * len(moving))
        if ledger.calls < self._parts * len(moving) * (1 + max(1, judged)) + 1:
            ledger.stopped_by = Limit.CALLS
        elif ledger.tokens + ledger.reserved <= least:
            ledger.stopped_by = Limit.TOKENS
        elif ledger.seconds >= ledger.budget.deadline_s:
            ledger.stopped_by = Limit.DEADLINE
        else:
            return True
        return False

    def kept(self, candidates: Sequence[Candidate], judged: int = 0) -> int:
        """Tokens to score `judged` replies and to finish one of the candidates.

        To finish one takes the rest of a reply, in a part of a search a whole one, as another part
        may have the best; at most a quarter of the budget is kept for that.
        """
        verifier = self._request.verifier
        begun = [each.tokens if self._parts == 1 else 0 for each in candidates if not each.done]
        rest = max((self._sampling.max_tokens - tokens for tokens in begun), default=0)
        finishing = min(rest, self._request.ledger.budget.max_tokens // 4)
        return finishing + (judged * verifier.max_tokens if verifier is not None else 0)

    def saving(self) -> AbstractContextManager[None]:
        """Keep what the answers take until this context ends: calls, and a quarter of the rest.

        For work that gives no answer by itself: whatever it costs, one can be written after it.
        """
        return self._request.ledger.saving(self.n * self.cap, self.n)

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
        self.report(votes)
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

    def part(self, engine: str | None = None, *, speaks: bool = True) -> Session:
        """Open a session on the same prompt for an inner strategy: undecided, and without a vote.

        Replies that the request has already are reused where they would be drawn again.

        Args:
            engine: the configuration's name of the engine; None: the same one. Adapter and template
                arguments are for the request's own model, and left out with another one.
            speaks: what it concludes streams to the client.
        """
        request = self._request
        self.report(None)
        if request.ledger.stopped_by is Limit.DECIDED:
            request.ledger.stopped_by = None
        made = request.produced.values()
        whole = [each for each in made if each.done and each.id in request.drawn]
        elsewhere = {} if engine is None else self._elsewhere(request.service.engines[engine])
        return self._child(
            n=self.n,
            speaks=self._speaks and speaks,
            stock=sorted(whole, key=lambda each: [int(place) for place in each.id.split(".")]),
            **elsewhere,
        )

    def salvage(self) -> list[Candidate]:
        """Return what was made or reused here, where the budget ended first, as it was made.

        What was to be streamed never began.
        """
        self._request.concluded = False
        here = f"{self._path}."
        made = self._request.produced.items()
        return [each for name, each in made if name.startswith(here) or name in self._reused]

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
            return await source._draw(n, live=live, scored=False)
        if source.done:
            if live:
                self._request.events.answer(0, source)
            return [source]
        race = self._race([source], live=live, scored=False)
        await race.run()
        merged = self._merge([source], race)
        return merged if merged[0].tokens else self._begun(race)

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
            "parts": self._parts,
            **changes,
        }
        return Session(self._request, **given)

    def _elsewhere(self, engine: Engine) -> dict[str, Any]:
        """Return what changes with another engine."""
        given, wanted = engine.capabilities.logprobs, self._sampling.logprobs
        logprobs = None if given is None or wanted is None else min(given, wanted)
        return {
            "engine": engine,
            "prompt": replace(self.prompt, adapter=None, template_arguments={}),
            "sampling": replace(self._sampling, logprobs=logprobs),
        }

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
        keep: int = 0,
        separately: bool = False,
        live: bool = False,
        scored: bool = True,
        **sampling: Any,
    ) -> Race:
        """Pay for the calls and line the candidates up; everything here is synchronous."""
        request = self._request
        live = live and request.events.followed
        if live:
            sampling["incremental"] = True
        drawn = self._sampling_with(**sampling)
        moving = [(i, each) for i, each in enumerate(candidates) if not each.done]
        drawing = None if stop or tokens is not None or not self._own else self._drawing(drawn)
        self._remember(drawing, [each for _, each in moving])
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
            self._aside(len(lanes), keep) if scored else keep,
            separately,
            request.events.answer if live else None,
        )

    def _remember(self, drawing: Drawing | None, candidates: Sequence[Candidate]) -> None:
        """Note how replies are drawn; one that is made in pieces was not drawn in one go."""
        for each in candidates:
            if drawing is None or each.tokens or each.text:
                self._request.drawn.pop(each.id, None)
            else:
                self._request.drawn[each.id] = drawing

    def _drawing(self, sampling: Sampling) -> Drawing:
        drawn = replace(sampling, seed=None, incremental=False)
        return Drawing(self._engine, self.prompt, drawn)

    def _asked(self, **changes: Any) -> Sampling:
        if "temperature" in changes and changes["temperature"] is None:
            changes["temperature"] = self._sampling.temperature or DIVERSITY
        return replace(self._sampling, **changes)

    def _sampling_with(self, **changes: Any) -> Sampling:
        if self._sampling.seed is not None:
            changes["seed"] = sample_seed(self._sampling.seed, self._next_path())
        return self._asked(**changes)

    def _aside(self, lanes: int, keep: int) -> int:
        """Leave the verifier what it needs for these samples, and as many of every other part.

        Where nothing is kept for later, that is at most half of what is left.
        """
        verifier = self._request.verifier
        if verifier is None or self._stage is Stage.VERIFY:
            return keep
        judging = self._parts * lanes * verifier.max_tokens
        return keep + judging if keep else min(judging, self._request.ledger.tokens // 2)

    def _next_path(self) -> str:
        """Name the next thing that this session does: ids and seeds depend on it."""
        path = f"{self._path}.{self._calls}"
        self._calls += 1
        return path

    async def _reopened(self, candidate: Candidate, without: str) -> Candidate:
        """Undo a reply's end, and take off what it ends with, by its tokens where that is exact."""
        text, ids = candidate.text, candidate.token_ids
        ended = candidate.finish_reason == "stop" and candidate.stop_reason is None
        if ended and self.end_tokens:
            ids = ids[:-1]
        if without and text.endswith(without):
            text = text.removesuffix(without)
            last = await self._engine.tokenize(without)
            exact = bool(last) and ids[-len(last) :] == last
            ids = ids[: -len(last)] if exact else await self._engine.tokenize(text)
        return replace(
            candidate, text=text, token_ids=ids, message=None, finish_reason=None, stop_reason=None
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
        """Record how candidates stand; what has not begun is none yet."""
        if self._own:
            begun = [each for each in candidates if each.tokens or each.text or each.done]
            self._request.produced.update((each.id, each) for each in begun)
