"""Confidence vote: agreement, weighed by how sure the model was of each reply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, ClassVar, Literal

from pydantic import Field

from strategies.base import Need, Parallel
from strategies.session import Session
from verifiers.logprob import ALTERNATIVES, self_certainty
from verifiers.types import Candidate, Capabilities


class ConfidenceVote(Parallel):
    """Draw n replies and return the best reply of the answer with the most confidence behind it.

    `softmax` weighs reply i of a question by exp(cᵢ/T) / Σⱼ exp(cⱼ/T) (CISC, 2502.06233); `borda`
    weighs the reply at rank r of n by (n − r + 1)^p (2502.18581), replies of equal confidence by
    the mean of their places. Replies without an answer hold their rank, and do not vote.

    The confidence c is the probability of the reply to the power 1/length (`logprob`), or its mean
    KL(uniform ‖ p) per token (`self_certainty`). Published: T and p tuned; here both are 1.

    We deviate. Self-certainty sums over the vocabulary, engines give the 20 likeliest tokens, so p
    is normalised over these. CISC's best confidence, P(True), is another question for each reply:
    `weighted_vote` with a judge asks it.
    """

    type: Literal["confidence_vote"] = "confidence_vote"
    paper: ClassVar[str] = (
        "Taubenfeld et al., Confidence Improves Self-Consistency in LLMs, 2502.06233"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.LOGPROBS})

    confidence: Literal["logprob", "self_certainty"] = Field(
        "logprob", description="What a reply is weighed by."
    )
    weighting: Literal["softmax", "borda"] = Field("softmax", description="From it to a weight.")
    softmax_temperature: float = Field(1.0, ge=0.001, le=100, description="T of `softmax`.")
    power: float = Field(1.0, ge=0, le=10, description="p of `borda`.")

    def unavailable(self, capabilities: Capabilities) -> str | None:
        """Self-certainty needs alternatives to every token."""
        given = capabilities.logprobs
        if self.confidence == "self_certainty" and given is not None and given < ALTERNATIVES:
            return f"the engine gives {given} of the {ALTERNATIVES} alternatives needed"
        return super().unavailable(capabilities)

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Sample, weigh, add up the weights of equal answers."""
        wanted: dict[str, Any] = {}
        if self.confidence == "self_certainty":
            wanted["logprobs"] = ALTERNATIVES
        candidates = await session.sample(self.n, temperature=self.temperature, **wanted)
        sure = [self._confidence(candidate) for candidate in candidates]
        if self.weighting == "softmax":
            weights = softmax(sure, self.softmax_temperature)
        else:
            weights = borda(sure, self.power)
        weighed = [replace(c, score=w) for c, w in zip(candidates, weights, strict=True)]
        return (await session.votes(weighed, weighted=True)).ranked

    def _confidence(self, candidate: Candidate) -> float:
        """Return how sure the model was, 0 where it said nothing."""
        if self.confidence == "logprob":
            return math.exp(candidate.mean_logprob)
        return self_certainty(candidate.logprobs) if candidate.logprobs else 0.0


def softmax(values: Sequence[float], temperature: float) -> list[float]:
    """Return weights in proportion to exp(value / temperature), which sum to 1."""
    powers = [math.exp((value - max(values)) / temperature) for value in values]
    return [power / math.fsum(powers) for power in powers]


def borda(values: Sequence[float], power: float) -> list[float]:
    """Return (n − r + 1)^power for the value at rank r of n; equal values share their places."""
    points = [(len(values) - place) ** power for place in range(len(values))]
    shares = []
    for value in values:
        above = sum(other > value for other in values)
        shares.append(fmean(points[above : above + values.count(value)]))
    return shares
