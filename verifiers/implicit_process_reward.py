"""Rewards of steps that a model holds without being trained on steps: a ratio of likelihoods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import ClassVar, Literal

from pydantic import Field

from verifiers.aggregation import Aggregation, aggregate
from verifiers.base import Verifier
from verifiers.label_reader import adapter_missing
from verifiers.steps import BLANK_LINE, step_ends, token_ends
from verifiers.turns import reply_so_far
from verifiers.types import Candidate, Capabilities, Powers, Reply, Score, Task, TokenLogprob


class ImplicitProcessReward(Verifier):
    """Score by β · log(π(reply) / π_ref(reply)), read step by step from two models.

    Free Process Rewards without Process Labels, 2412.01981; PRIME, 2502.01456 (β 0.05). A model
    that was trained with this log-ratio as its outcome reward (by cross-entropy: σ of it is the
    probability that the reply is correct) gives every beginning of a reply a value too: q_t, the
    log-ratio summed up to the end of step t. The papers' reward of step t is q_t − q_(t−1).

    `Score.steps` are σ(q_t), in [0, 1]; 0.5 is no evidence. The score is the last, which is the
    outcome reward that the model was trained by, or another aggregation of them.

    Two requests of one token per reply. Each measures the whole reply, which the prefix cache
    cannot help, so a reply that grows is measured anew.
    """

    type: Literal["implicit_process_reward"] = "implicit_process_reward"
    paper: ClassVar[str] = "Yuan et al., Free Process Rewards without Process Labels, 2412.01981"

    engine: str | None = Field(
        None, description="The configured engine of the trained model; default: the policy's."
    )
    adapter: str | None = Field(None, description="A LoRA adapter that makes it the trained one.")
    reference_engine: str | None = Field(
        None, description="The configured engine of the reference; default: the policy's."
    )
    reference_adapter: str | None = Field(None, description="The reference's LoRA adapter.")
    beta: float = Field(0.05, gt=0, description="β, the one of the training.")
    separator: str = Field(BLANK_LINE, min_length=1, max_length=64, description="Ends a step.")
    aggregation: Aggregation = Field("last", description="How the steps make the score.")

    @property
    def calls(self) -> int:
        """Each model measures the reply once."""
        return 2

    @property
    def max_tokens(self) -> int:
        """A token each, as there is no request without one."""
        return 2

    @property
    def partial(self) -> bool:
        """Any beginning has a value."""
        return True

    @property
    def asked(self) -> str | None:
        """The trained model's engine."""
        return self.engine

    def engines(self) -> frozenset[str]:
        """Name both models' engines."""
        return frozenset(each for each in (self.engine, self.reference_engine) if each is not None)

    def unavailable_among(
        self, policy: Capabilities, engines: Mapping[str, Capabilities]
    ) -> str | None:
        """Two models are needed, on engines that measure a given reply."""
        trained = self.engine, self.adapter
        reference = self.reference_engine, self.reference_adapter
        if trained == reference:
            return "the trained model and its reference are configured to be the same"
        for engine, adapter in (trained, reference):
            able = policy if engine is None else engines[engine]
            if not able.reply_logprobs:
                return "the engine tells no log-probabilities of a reply that it is given"
            if reason := adapter_missing(adapter, able):
                return reason
        return None

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Have both models measure every reply."""
        trained = await _measured(task, candidates, powers, self.engine, self.adapter)
        reference = await _measured(
            task, candidates, powers, self.reference_engine, self.reference_adapter
        )
        return [
            self._score(each.text, ours, theirs)
            for each, ours, theirs in zip(candidates, trained, reference, strict=True)
        ]

    def _score(
        self, text: str, trained: Sequence[TokenLogprob], reference: Sequence[TokenLogprob]
    ) -> Score:
        ends = step_ends(text, self.separator)
        ours, theirs = _reached(trained, text, ends), _reached(reference, text, ends)
        if not ours or not theirs:
            return Score(0.0, abstained=True)
        values = [self.beta * (a - b) for a, b in zip(ours, theirs, strict=True)]
        steps = tuple(map(_sigmoid, values))
        return Score(aggregate(steps, self.aggregation), steps)


async def _measured(
    task: Task,
    candidates: Sequence[Candidate],
    powers: Powers,
    engine: str | None,
    adapter: str | None,
) -> list[tuple[TokenLogprob, ...]]:
    """Return the reply's log-probabilities by one model; () where the budget could not pay."""
    prompts = [
        replace(reply_so_far(task, _whole(each, engine), engine), adapter=adapter)
        for each in candidates
    ]
    answers = await powers.ask(prompts, engine=engine, max_tokens=1, reply_logprobs=True)
    return [replies[0].logprobs if replies else () for replies in answers]


def _whole(candidate: Candidate, engine: str | None) -> Reply:
    """Give the policy's own tokens to its own engine alone."""
    return Reply(candidate.text, candidate.token_ids if engine is None else ())


def _reached(entries: Sequence[TokenLogprob], text: str, ends: Sequence[int]) -> list[float]:
    """Return the reply's log-probability up to each end; the last one takes all that is left.

    Empty where there are no steps, or the entries are of another text.
    """
    cuts = token_ends([entry.token for entry in entries], text, ends)
    if not cuts:
        return []
    sums = list(accumulate(entry.logprob for entry in entries))
    return [sums[cut - 1] for cut in (*cuts[:-1], len(sums))]


def _sigmoid(value: float) -> float:
    return 0.5 * (1.0 + math.tanh(value / 2))
