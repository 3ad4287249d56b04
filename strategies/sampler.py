"""How a session draws replies and goes on with them: reserved, paid, seeded and recorded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from strategies.budget import Limit, Stage
from strategies.concurrency import lossy
from strategies.lane import Lane
from strategies.race import Desk, Race
from strategies.request import Drawing, Request
from verifiers.errors import BudgetSpent
from verifiers.types import Candidate, Capabilities, Engine, Prompt, Sampling, sample_seed

DIVERSITY = 0.8
"""Temperature of strategies that need different samples, where the request names none above 0."""


class Sampler:
    """Draws replies to one prompt under a request's budget. The lowest layer of a session."""

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
        """Open it; `sampling` is the request's own, its `max_tokens` caps each reply.

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
    def seeded(self) -> bool:
        """Whether the request can be repeated: then nothing may depend on who ends first."""
        return self._sampling.seed is not None

    @property
    def cap(self) -> int:
        """The most tokens of a reply."""
        return self._sampling.max_tokens

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._engine.capabilities

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens with which the engine ends a reply, where it has ids."""
        return self._engine.capabilities.end_tokens

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text that is put into a reply; () where the engine has no ids."""
        return await self._engine.tokenize(text)

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
            request.cache_salt,
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
