"""Beam search over steps: go on with the replies that the verifier likes best so far."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from strategies.concurrency import keep_busy
from strategies.session import Session
from strategies.steps import FrontierSearch, by_score
from verifiers.types import Candidate


class Beam(FrontierSearch):
    """Grow n replies by a step, keep the best n/M, give each M branches, until those have ended.

    Right where the verifier judges unfinished replies well; where it does not, it prunes the right
    ones, and best-of-n is better. Published: M (`width`) 4, 40 steps, temperature 0.8, no
    lookahead, weighted vote at the end (Snell et al.; Hugging Face's search-and-learn).
    `lookahead` scores a step by where greedy decoding leads from it within so many more steps.

    A reply that has ended competes for its place in the beam with its last score, costs nothing
    more, and is a candidate for the answer even where it loses the place. Equal steps from one
    state are made one before they are scored. We deviate: at least one reply is kept; the search
    stops in time to finish its best branch within the budget. With `asynchronous`, an option of
    ours, a place that becomes free is taken at once by the best open node of the whole tree, while
    others still generate: nothing is pruned before the end. A request with a seed waits all the
    same, as an answer must not depend on who ends first.
    """

    type: Literal["beam"] = "beam"
    paper: ClassVar[str] = "Snell et al., Scaling LLM Test-Time Compute Optimally, 2408.03314"

    width: int = Field(4, ge=1, le=64, description="M, branches of each kept reply.")
    lookahead: int = Field(0, ge=0, le=16, description="Further steps by which one is judged.")
    asynchronous: bool = Field(False, description="Do not wait for a whole generation.")

    @property
    def beams(self) -> int:
        """Replies that are kept."""
        return max(1, self.n // self.width)

    def generations(self) -> int:
        """Every step is followed by those of the lookahead."""
        return self.max_steps * (1 + self.lookahead)

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Grow, score, keep the best, branch."""
        if self.asynchronous and not session.seeded:
            return await self.choose(session, await self._refilled(session))
        ended: dict[str, Candidate] = {}
        kept = branches = session.blank(self.n)
        for _ in range(self.max_steps):
            if all(each.done for each in kept) or not self._affords(session, branches):
                break
            grown = by_score(await self.step(session, branches))
            ended |= {each.id: each for each in grown if each.done}
            kept = grown[: self.beams]
            session.prune(grown[self.beams :])
            branches = session.branch(kept, [min(self.width, self.n)] * len(kept))
        return await self.choose(session, [*ended.values(), *(k for k in kept if not k.done)])

    async def judge(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Score each reply where it stands, or where greedy decoding leads from it."""
        if not self.lookahead:
            return await super().judge(session, candidates)
        ahead = session.branch(candidates, [1] * len(candidates))
        for _ in range(self.lookahead):
            kept = session.kept(candidates, judged=sum(each.done for each in ahead))
            ahead = await self.extend(session, ahead, 0.0, kept)
        session.prune(ahead)
        scored = zip(candidates, await session.score(ahead), strict=True)
        return [replace(each, score=end.score, steps=end.steps) for each, end in scored]

    def _affords(self, session: Session, branches: Sequence[Candidate]) -> bool:
        return session.affords([*branches] * (1 + self.lookahead))

    async def _refilled(self, session: Session) -> list[Candidate]:
        """Go on with the best open node whenever one of the beam's places is free."""
        part = session.split(self.beams)[0]  # which leaves as much for each of the other places
        nodes = session.blank(self.n)
        if not self._affords(session, nodes):
            return nodes
        nodes = await self.step(session, nodes)
        turns = iter(range((self.max_steps - 1) * self.beams))

        def start() -> Coroutine[Any, Any, list[Candidate]] | None:
            standing = by_score(nodes)[: self.beams]
            best = next((each for each in standing if not each.done), None)
            if best is None or next(turns, None) is None:
                return None
            branches = part.branch([best], [min(self.width, self.n)])
            if not self._affords(part, branches):
                return None
            nodes.remove(best)
            return self.step(part, branches)

        await keep_busy(start, nodes.extend, self.beams)
        return nodes
