"""DeepConf: trust the traces that were never unsure, and stop the others while they stream."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import Need, Parallel, Width, best_first
from strategies.group_confidence import Groups, lowest_group, quantile
from strategies.session import Session
from verifiers.logprob import ALTERNATIVES
from verifiers.types import Candidate, Capabilities
from verifiers.votes import Votes

LEAST_VOTERS = 3
"""Nothing is decided by fewer answers: two of a kind are no consensus yet."""


class DeepConfidence(Parallel):
    """Vote among the replies whose least confident stretch was confident enough.

    A trace's confidence is that of its least confident window. The warm-up traces set a threshold,
    the quantile 1 − `keep` of theirs; those below it do not vote, the others weigh what their
    confidence is. `offline`, the warm-up is all n. `online`, the others race after it; each is
    stopped at the token where a full window falls below the threshold, and all are once the winner
    holds `tau` of the weight. Where nothing above the threshold has an answer, all traces vote.

    Published: n 512 offline, 256 online, 20 alternatives, warm-up 16, window 2048, `keep` .9 or .1,
    τ .95, temperature .6, top-p .95. We deviate: n is 32; the window is capped at half the median
    length of the warm-up, or short replies would be one window each; fewer than 3 answers decide
    nothing. With a request seed the others come in waves as wide as the warm-up, and only whole
    waves decide; where each is stopped depends on nothing but itself.
    """

    type: Literal["deep_confidence"] = "deep_confidence"
    paper: ClassVar[str] = "Fu et al., Deep Think with Confidence, 2508.15260"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.LOGPROBS})

    n: Width = 32
    mode: Literal["offline", "online"] = Field(
        "online", description="Weigh whole replies, or stop unsure ones early as well."
    )
    keep: float = Field(0.9, gt=0, lt=1, description="Share of the warm-up traces that vote.")
    warm_up: Width = 16
    window: int = Field(2048, ge=1, description="Tokens, where the replies are long enough.")
    tau: float = Field(0.95, gt=0.5, le=1, description="Share of the weight that decides.")
    alternatives: int = Field(
        ALTERNATIVES, ge=2, le=ALTERNATIVES, description="Likeliest tokens looked at at each place."
    )

    def unavailable(self, capabilities: Capabilities) -> str | None:
        """Without alternatives the measure says the contrary: −log p is least where p is 1."""
        given = capabilities.logprobs
        if given is not None and given < self.alternatives:
            return f"the engine gives {given} of the {self.alternatives} alternatives needed"
        return super().unavailable(capabilities)

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Let the warm-up set the threshold, race the others above it, until they agree."""
        first = self.n if self.mode == "offline" else min(self.warm_up, self.n)
        drawn = await session.sample(
            first, temperature=self.temperature, logprobs=self.alternatives
        )
        width = max(1, min(self.window, int(median(len(each.logprobs) for each in drawn)) // 2))
        traces = [_measured(each, width) for each in drawn]
        threshold = quantile([each.score for each in traces], 1 - self.keep)
        votes = await _vote(session, traces, threshold)
        left = self.n - first
        while left and not self._agreed(votes) and session.affords([]):
            wave = min(left, first) if session.seeded else left
            traces += await self._race(session, wave, traces, width, threshold)
            votes = await _vote(session, traces, threshold)
            left -= wave
        if left and not session.spent:
            session.decided()
        ranked = {each.id: each for each in [*votes.ranked, *best_first(traces)]}
        return list(ranked.values())

    async def _race(
        self,
        session: Session,
        width: int,
        traces: Sequence[Candidate],
        window: int,
        threshold: float,
    ) -> list[Candidate]:
        """Draw more, each until it is unsure; without a seed, until those that ended agree."""
        groups: dict[str, Groups] = defaultdict(partial(Groups, window))
        ended: dict[str, Candidate] = {}
        async with session.race(
            session.blank(width), temperature=self.temperature, logprobs=self.alternatives
        ) as race:

            def watch(_place: int, trace: Candidate) -> None:
                groups[trace.id].take(trace.logprobs)
                if groups[trace.id].lowest < threshold:
                    race.stop(trace)

            race.listener = watch  # at the token itself, however late the loop below hears of it
            async for trace in race:
                if session.seeded or not trace.done or trace.id in ended:
                    continue
                ended[trace.id] = _measured(trace, window)
                if len(ended) < width and self._agreed(
                    await _vote(session, [*traces, *ended.values()], threshold)
                ):
                    session.decided()
                    break
        return [_measured(each, window) for each in race.candidates if each.done]

    def _agreed(self, votes: Votes) -> bool:
        voters = sum(len(each.members) for each in votes.classes)
        return voters >= LEAST_VOTERS and (votes.agreement or 0.0) >= self.tau


def _measured(trace: Candidate, window: int) -> Candidate:
    return replace(trace, score=lowest_group(trace.logprobs, window))


async def _vote(session: Session, traces: Sequence[Candidate], threshold: float) -> Votes:
    sure = [each for each in traces if each.score >= threshold]
    votes = await session.votes(sure, weighted=True)
    return votes if votes.classes else await session.votes(traces, weighted=True)
