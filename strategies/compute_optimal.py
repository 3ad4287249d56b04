"""Compute-optimal scaling: see how hard the question is, and spend by that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from strategies.allocation import Choice, Features, affordable_width, features
from strategies.base import Family, Parallel, Width, attempt
from strategies.inner import described, sampler
from strategies.request import Service
from strategies.session import Session
from verifiers.errors import BadRequest
from verifiers.types import Candidate
from verifiers.votes import Votes


class ComputeOptimal(Parallel):
    """Draw a few probes, and spend on the question what a table says of its difficulty and budget.

    A table bins difficulty, and says for each bin and budget which strategy and width did best on
    recorded samples: to stop with the probes' vote, or to draw more. The probes are its first
    samples. The budget sets the width: no more samples than it pays if they are as long as the
    probes. Published: 5 bins, by the policy's pass@1 or by the mean score of 2,048 samples, and two
    folds of problems, each judged by what the other learned.

    We deviate. The paper bins by samples that it does not count; our 4 probes are paid for, and
    predict pass@1 from their agreement, abstentions, confidence and length, by a linear fit. The
    bins are 3 (as in 2502.06703), because the shipped table was learned on few problems; it chooses
    among parallel samplers only, and takes the cheapest that is as good as the best.
    """

    type: Literal["compute_optimal"] = "compute_optimal"
    family: ClassVar[Family] = "across"
    paper: ClassVar[str] = "Snell et al., Scaling LLM Test-Time Compute Optimally, 2408.03314"

    n: Width = Field(16, description="The most samples to draw, probes included.")
    probes: int | None = Field(
        None, ge=2, le=64, description="Samples to look at first. Default: the table's."
    )
    table: str = Field("gsm8k", max_length=256, description="One of the server's tables.")

    def check(self, service: Service, place: str = "strategy") -> None:
        """The table has to be there."""
        if self.table not in service.tables:
            known = ", ".join(service.tables)
            raise BadRequest(f"there is no such table; there are {known}", param=f"{place}.table")

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Probe, look up, spend."""
        table, budget = session.tables[self.table], session.remaining.tokens
        count = min(self.probes or table.probes, self.n)
        probes = await session.sample(count, temperature=self.temperature)
        votes = await session.votes(probes)
        place = table.bin(_seen(votes, probes))
        choice = _first(table.choices(place, budget), session)
        affords = affordable_width([each.tokens for each in probes], session.remaining.tokens)
        width = min(max(session.n, 0 if choice is None else choice.n), self.n, affords)
        if width <= len(probes):
            session.chosen(None, bin=place)
            if choice is None:
                session.decided()
            return votes.ranked
        spend = choice or sampler({"type": "self_consistency"})
        spend = spend.model_copy(update={"n": width, "temperature": self.temperature})
        session.chosen(described(spend), bin=place)
        return await attempt(spend, session.part())

    async def rank(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Let all that was drawn before the budget ended vote."""
        return (await session.votes(candidates)).ranked


def _seen(votes: Votes, probes: Sequence[Candidate]) -> Features:
    """Describe the probes."""
    leading = len(votes.classes[0].members) if votes.classes else 0
    return features(
        leading,
        len(probes) - votes.abstentions,
        [each.mean_logprob for each in probes],
        [each.tokens for each in probes],
    )


def _first(choices: Sequence[Choice], session: Session) -> Parallel | None:
    """Return the first choice that the engine can run; None where the probes' vote stands."""
    samplers = (sampler(choice.model_dump()) for choice in choices)
    able = (each for each in samplers if not each.unavailable(session.capabilities))
    return next(able, None)
