"""The Session: the only object that starts generations.

It counts tokens, reserves budget, keeps the deadline, seeds randomness and records events, so
that a strategy is nothing but its algorithm. It has three layers: `sampler.py` draws replies,
`growth.py` treats them as trees, and this one opens other sessions, judges, and answers.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from strategies.allocation import Table
from strategies.budget import Limit, Stage
from strategies.concurrency import lossy
from strategies.events import EventKind
from strategies.growth import Grower
from strategies.powers import SessionPowers
from strategies.request import Remaining
from strategies.scoring import score_new
from verifiers.concurrency import together
from verifiers.errors import BudgetSpent, EngineError
from verifiers.types import Candidate, Engine, JSONObject, Prompt, Sampling
from verifiers.votes import Votes, gather_votes

Result = TypeVar("Result")

WRITE_DOWN = "Give your final answer now, in the required form and nothing else."
"""Asked after a search that no grammar ruled."""


class Session(Grower):
    """One prompt under a request's budget. See DESIGN, "The four nouns"."""

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

    async def score(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates with scores; only what is new is scored.

        What the budget cannot pay, and what the verifier abstains on, stays unscored.
        """
        request = self._request
        powers = SessionPowers(self.question, request.service.equivalence)
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
        answers: bool = False,
        formats: bool = False,
        **sampling: Any,
    ) -> Session:
        """Open a session on another prompt: same budget, same ledger, its own seeds.

        Args:
            messages: the other prompt.
            engine: the configuration's name of another engine.
            answers: its replies answer the request's own question: they are candidates of it.
            formats: the request's tools and response format rule them; else they are left out.
            sampling: fields of `Sampling` that differ.
        """
        elsewhere = engine is not None
        return self._child(
            engine=self._engine if engine is None else self._request.service.engines[engine],
            prompt=replace(
                self.prompt if formats else Prompt(()),
                messages=tuple(messages),
                adapter=None if elsewhere else self.prompt.adapter,
                template_arguments={} if elsewhere else self.prompt.template_arguments,
            ),
            sampling=replace(self._sampling, **sampling),
            own=answers and self._own,
        )

    def question(self, prompt: Prompt, engine: str | None = None, **sampling: Any) -> Session:
        """Open a session on a verifier's prompt: the same budget, and nothing of the request's own.

        `sampling` are fields of `Sampling`; of the request's, only seed and cap apply.
        """
        own = Sampling(max_tokens=self._sampling.max_tokens, seed=self._sampling.seed)
        return self._child(
            engine=self._engine if engine is None else self._request.service.engines[engine],
            prompt=prompt,
            sampling=replace(own, **sampling),
            stage=Stage.VERIFY,
            own=False,
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

        What it takes to write the answer down is kept by `saving`.
        """
        prompt = replace(self.prompt, tools=(), tool_choice=None, response_format=None)
        return self._child(prompt=prompt, n=self.n, speaks=False)

    async def write_down(
        self, found: Sequence[Candidate], asked: str = WRITE_DOWN
    ) -> list[Candidate]:
        """Have answers that were found written in the form that the request wants."""
        user = {"role": "user", "content": asked}
        turns = [({"role": "assistant", "content": each.content}, user) for each in found]
        forks = [
            self.fork([*self.prompt.messages, *turn], answers=True, formats=True) for turn in turns
        ]
        if len(forks) == 1:
            return await self.conclude(forks[0], self.n)
        written = await self.side_by_side(fork.sample(1) for fork in forks)
        return [each for drawn in written for each in drawn]

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
