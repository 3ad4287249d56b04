"""How sure the model was of its own words: free of engine calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar, Literal

from pydantic import Field

from verifiers.base import Verifier
from verifiers.types import Candidate, Powers, Score, Task, TokenLogprob

ALTERNATIVES = 20
"""Likeliest tokens asked for at each place; engines give no more."""


class Logprob(Verifier):
    """Score a reply by the log-probabilities that it was drawn with.

    `mean`, `tail` and `lowest_window` are geometric mean token probabilities, in (0, 1]: of the
    whole reply, of its last `window` tokens, of its least probable `window` consecutive tokens
    (a shorter reply is one window; the latter two follow DeepConf, 2508.15260, which takes them of
    its token confidence instead).

    `self_certainty` is the mean over tokens of KL(uniform ‖ p), at least 0 and without a bound
    (2502.18581). We deviate: the paper sums over the vocabulary, engines give the 20 likeliest
    tokens, so p is normalised over these.
    """

    type: Literal["logprob"] = "logprob"
    paper: ClassVar[str] = (
        "Kang et al., Scalable Best-of-N Selection via Self-Certainty, 2502.18581"
    )

    measure: Literal["mean", "tail", "lowest_window", "self_certainty"] = "mean"
    window: int = Field(64, ge=1, description="Tokens, for `tail` and `lowest_window`.")

    @property
    def logprobs(self) -> int:
        """Alternatives are needed for self-certainty alone."""
        return ALTERNATIVES if self.measure == "self_certainty" else 0

    @property
    def partial(self) -> bool:
        """Any reply so far can be judged."""
        return True

    async def score(
        self,
        task: Task,  # noqa: ARG002
        candidates: Sequence[Candidate],
        powers: Powers,  # noqa: ARG002
    ) -> list[Score]:
        """Score each reply by itself; one without log-probabilities is abstained on."""
        return [self._score(candidate.logprobs) for candidate in candidates]

    def _score(self, tokens: Sequence[TokenLogprob]) -> Score:
        if not tokens:
            return Score(0.0, abstained=True)
        if self.measure == "self_certainty":
            return Score(self_certainty(tokens))
        values = [token.logprob for token in tokens]
        if self.measure == "tail":
            values = values[-self.window :]
        elif self.measure == "lowest_window":
            return Score(math.exp(_lowest_mean(values, self.window)))
        return Score(math.exp(sum(values) / len(values)))


def self_certainty(tokens: Sequence[TokenLogprob]) -> float:
    """Return the mean over tokens, at least one, of KL(uniform ‖ p) in nats."""
    return sum(map(_divergence, tokens)) / len(tokens)


def _divergence(token: TokenLogprob) -> float:
    """Return KL(uniform ‖ p) in nats over the alternatives of one token, p normalised over them."""
    logprobs = [logprob for _, logprob in token.top if math.isfinite(logprob)]
    if not logprobs:
        return 0.0
    normaliser = math.log(sum(map(math.exp, logprobs)))
    return normaliser - sum(logprobs) / len(logprobs) - math.log(len(logprobs))


def _lowest_mean(values: Sequence[float], window: int) -> float:
    """Return the lowest mean of `window` consecutive values."""
    width = min(window, len(values))
    sums = [0.0, *accumulate(values)]
    return min(sums[end] - sums[end - width] for end in range(width, len(sums))) / width
