"""Speculative rejection: start many replies, and give up the worst while they grow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import Need, Parallel, Width, WorstCase, best_first
from strategies.budget import Budget
from strategies.session import Session
from verifiers.base import Verifier
from verifiers.types import Candidate


class SpeculativeRejection(Parallel):
    """Start n replies, drop the worst share at every checkpoint, and finish the rest.

    Best-of-n for less, as far as the score of a beginning foretells that of the whole. At a
    checkpoint all replies in the race are ranked, finished ones too, and the worst α of them (at
    least one, never the last) fall out. One that has finished costs nothing more and stays an
    answer, in the race or out of it: the best score wins in the end. Equal scores fall to the
    higher mean log-probability, then to the text. The last one left goes on to its end unjudged.

    Published: α .5, up to 8,000 tokens a reply. We deviate: checkpoints come every `check_every`
    tokens, not where the memory is full, for a server shares its memory; and the worst fall out
    at once, without a checkpoint, while the budget cannot pay the next one for all.
    """

    type: Literal["speculative_rejection"] = "speculative_rejection"
    paper: ClassVar[str] = (
        "Sun et al., Fast Best-of-N Decoding via Speculative Rejection, 2410.20290"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.SCORES, Need.STEP_SCORES, Need.CONTINUATION})

    n: Width = 16
    alpha: float = Field(0.5, gt=0, lt=1, description="Share that each checkpoint drops.")
    check_every: int = Field(64, ge=1, le=8192, description="Tokens between two checkpoints.")

    def samples(self, n: int) -> int:  # noqa: ARG002  (its width, whatever the client wants)
        """Return the starts and continuations where no reply ends before it is dropped."""
        return sum(self._widths())

    def choices(self, n: int) -> int:  # noqa: ARG002
        """Return how many may finish."""
        return self.n

    def worst_case(self, n: int, cap: int, verifier: Verifier | None, budget: Budget) -> WorstCase:
        """Count the tokens of every checkpoint, and a whole reply for the last one left."""
        widths = list(self._widths())
        judged = verifier.max_tokens if verifier is not None else 0
        pieces = min(self.n * cap, self.check_every * sum(widths[:-1]) + cap)
        tokens = min(pieces + judged * sum(widths), budget.max_tokens)
        return WorstCase(min(self.samples(n), budget.max_calls), tokens)

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Go on, score, drop the worst, until all that are left have ended."""
        race = session.blank(self.n)
        finished: dict[str, Candidate] = {}
        while not all(each.done for each in race):
            while len(race) > 1 and not session.affords(race):
                race = self._survivors(session, race)
            tokens = self.check_every if len(race) > 1 else None
            race = await session.score(
                await session.extend(race, tokens=tokens, temperature=self.temperature)
            )
            finished |= {each.id: each for each in race if each.done}
            race = self._survivors(session, race)
        return best_first(finished.values())

    def _survivors(self, session: Session, race: Sequence[Candidate]) -> list[Candidate]:
        ranked = sorted(race, key=_rank)
        kept = self._kept(len(ranked))
        session.prune(ranked[kept:])
        return ranked[:kept]

    def _kept(self, width: int) -> int:
        return max(1, width - math.ceil(self.alpha * width))

    def _widths(self) -> Iterator[int]:
        """Give how many are in the race before each checkpoint, and at last the one left."""
        width = self.n
        while width > 1:
            yield width
            width = self._kept(width)
        yield width


def _rank(candidate: Candidate) -> tuple[float, float, str, str]:
    return -candidate.score, -candidate.mean_logprob, candidate.text, candidate.id
