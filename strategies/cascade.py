"""Cascade: cheap first, and more only where that does not convince."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from strategies.base import Family, Need, Part, Strategy, WorstCase, attempt
from strategies.budget import Budget
from strategies.concurrency import affordable
from strategies.inner import InnerStrategy, described
from strategies.session import Session
from verifiers.base import Verifier
from verifiers.types import Candidate, Capabilities
from verifiers.votes import Votes


class Stage(BaseModel):
    """A strategy, and who answers it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: InnerStrategy = Field(description="A strategy's name, or it with parameters.")
    engine: str | None = Field(
        None, max_length=256, description="A configured engine. Default: the request's model."
    )


class Acceptance(BaseModel):
    """What lets an answer stand; all that is given has to be met."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum_agreement: float | None = Field(
        None, gt=0, le=1, description="Share of the stage's replies that give the answer."
    )
    minimum_score: float | None = Field(None, description="The verifier's, of the answer's reply.")
    minimum_confidence: float | None = Field(
        None, gt=0, le=1, description="Geometric mean of the reply's token probabilities."
    )

    @model_validator(mode="after")
    def _something(self) -> Acceptance:
        if not self.model_dump(exclude_none=True):
            raise ValueError("name at least one criterion")
        return self


class Tried(NamedTuple):
    """What a stage came to: its replies, best first, and the vote that led to them."""

    ranked: list[Candidate]
    votes: Votes | None


def _two_widths() -> tuple[Stage, ...]:
    widths = ({"type": "self_consistency", "n": n} for n in (4, 16))
    return tuple(Stage.model_validate({"strategy": inner}) for inner in widths)


class Cascade(Strategy):
    """Answer by the first stage that meets a criterion; the last one's answer stands anyway.

    Right where most questions are easy: a small model or a few samples settle these, and only the
    others cost more. A stage is a strategy on a configured engine. Agreement as the criterion, with
    chains of thought, is Yue et al.'s vote (published: 20 samples of the weaker model, thresholds
    from the trade-off wanted); a score as the criterion is FrugalGPT's (2305.05176, which learns
    the scorer and the thresholds). The default asks one model: 4 samples, and 16 where fewer than
    3 of the 4 agree.

    Said nowhere: a reply without an answer counts against agreement, and a lone reply agrees with
    nobody. Replies of earlier stages on the same engine, drawn with the same parameters, count
    among a later stage's samples, who draws only what is missing. An unfinished answer never takes
    the place of a finished one. Stages share the request's budget; only the last one streams.
    """

    type: Literal["cascade"] = "cascade"
    family: ClassVar[Family] = "across"
    paper: ClassVar[str] = (
        "Yue et al., LLM Cascades with Mixture of Thought Representations, 2310.03094"
    )

    stages: tuple[Stage, ...] = Field(
        default_factory=_two_widths, min_length=2, max_length=4, description="In this order."
    )
    accept: Acceptance = Field(
        Acceptance(minimum_agreement=0.75), description="When a stage's answer stands."
    )

    def parts(self) -> tuple[Part, ...]:
        """Return the stages."""
        return tuple(
            Part(f"stages.{place}.strategy", stage.strategy, stage.engine)
            for place, stage in enumerate(self.stages)
        )

    def samples(self, n: int) -> int:
        """Return the samples of all stages."""
        return sum(stage.strategy.samples(n) for stage in self.stages)

    def choices(self, n: int) -> int:
        """Any stage may be the one that answers."""
        return min(stage.strategy.choices(n) for stage in self.stages)

    def required(self) -> frozenset[Need]:
        """The criterion may need scores or log-probabilities."""
        scores = {Need.SCORES} if self.accept.minimum_score is not None else set()
        sure = {Need.LOGPROBS} if self.accept.minimum_confidence is not None else set()
        return super().required() | scores | sure

    def worst_case(self, n: int, cap: int, verifier: Verifier | None, budget: Budget) -> WorstCase:
        """Add up the stages, and the scores of what they answer."""
        worst = [stage.strategy.worst_case(n, cap, verifier, budget) for stage in self.stages]
        judged = 0 if verifier is None or self.accept.minimum_score is None else verifier.max_tokens
        tokens = sum(each.tokens for each in worst) + judged * (len(self.stages) - 1)
        samples = min(sum(each.samples for each in worst), budget.max_calls)
        return WorstCase(samples, min(tokens, budget.max_tokens))

    def unavailable(self, capabilities: Capabilities) -> str | None:
        """The request's own engine has to be able to run the stages that name no other."""
        own = (part for part in self.parts() if part.engine is None)
        reasons = (self.part_unavailable(part, capabilities) for part in own)
        return next((reason for reason in reasons if reason), None)

    def part_unavailable(self, part: Part, capabilities: Capabilities) -> str | None:
        """A stage whose confidence counts needs log-probabilities."""
        if self.accept.minimum_confidence is not None and capabilities.logprobs is None:
            return "the engine gives no log-probabilities"
        return super().part_unavailable(part, capabilities)

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Try a stage, stop where its answer is accepted, else try the next one."""
        first, *others = self.stages
        best = await self._try(first, session.part(first.engine, speaks=False))
        for place, stage in enumerate(others, start=1):
            if await self._accepted(session, best.ranked):
                session.report(best.votes)
                session.chosen(None, stage=place - 1)
                session.decided()
                break
            session.chosen(described(stage.strategy), stage=place, engine=stage.engine)
            part = session.part(stage.engine, speaks=place == len(others))
            for tried in await affordable(self._try(stage, part)):
                better = tried.ranked[0].done or not best.ranked[0].done
                best = tried if better or session.concluded else best
            session.report(best.votes)
        return best.ranked

    async def _try(self, stage: Stage, part: Session) -> Tried:
        return Tried(await attempt(stage.strategy, part), part.reported)

    async def _accepted(self, session: Session, ranked: Sequence[Candidate]) -> bool:
        """Whether the first reply's answer meets every criterion, the costly one asked last."""
        answer, wanted = ranked[0], self.accept
        if not answer.done:
            return False
        if wanted.minimum_confidence is not None:
            confidence = math.exp(answer.mean_logprob)
            if confidence < wanted.minimum_confidence:
                return False
        if wanted.minimum_agreement is not None:
            share = await _agreement(session, ranked)
            if share < wanted.minimum_agreement:
                return False
        if wanted.minimum_score is None:
            return True
        [scored] = await session.score([answer])
        return scored.score >= wanted.minimum_score


async def _agreement(session: Session, ranked: Sequence[Candidate]) -> float:
    """Return the share of the replies that answer as the first does; alone, or without one: 0."""
    aside = session.fork(session.prompt.messages, formats=True)
    votes = await aside.votes(ranked)
    [agreeing] = [each.members for each in votes.classes if ranked[0] in each.members] or [()]
    return len(agreeing) / len(ranked) if len(ranked) > 1 else 0.0
