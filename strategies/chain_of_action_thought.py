"""Chain of action and thought: after each step go on, reflect, or explore another way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from strategies.base import Family, Need, Strategy, WorstCase, best_first
from strategies.budget import Budget
from strategies.conversation import MAX_PROMPT, apart, newest_first
from strategies.session import Session
from verifiers.base import Verifier
from verifiers.logprob import ALTERNATIVES
from verifiers.types import Candidate, Capabilities


class Action(StrEnum):
    """What can be done after a step."""

    CONTINUE = "continue"
    """Go on."""
    REFLECT = "reflect"
    """Check what was said."""
    EXPLORE = "explore"
    """Try another way."""


WORDS = {
    Action.REFLECT: "Wait, let me check the last step. ",
    Action.EXPLORE: "Let me take another approach here. ",
}
"""Cues for models that know no marks; to continue, they need none."""


class ChainOfActionThought(Strategy):
    """Choose an action after each step: go on, reflect on what was said, or explore another way.

    The paper trains a model to write `<|continue|>`, `<|reflect|>` and `<|explore|>` before its
    steps. `policy` "model" is for such models: after each step the likeliest of the marks as next
    token is put in (the paper samples it), none where none is among the 20 likeliest.

    Policy "confidence", for any other model, is ours and not the paper's: the mean token
    probability of the step decides. Below `reflect_below` a cue in words asks to check it; below
    `explore_below` the step is given up, and the chain restarts before it with another cue, as the
    paper's training restarts from earlier states. After `interventions` of these it only goes on.
    The thresholds are guesses, to be set by model. Costs: a token a step for "model", the steps
    given up for "confidence". A reply that ends is the answer.
    """

    type: Literal["chain_of_action_thought"] = "chain_of_action_thought"
    family: ClassVar[Family] = "sequential"
    paper: ClassVar[str] = (
        "Shen et al., Satori: Reinforcement Learning with Chain-of-Action-Thought Enhances LLM "
        "Reasoning via Autoregressive Search, 2502.02508"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CONTINUATION, Need.LOGPROBS})

    policy: Literal["model", "confidence"] = Field(
        "confidence", description="Who says what to do next: the model itself, or its confidence."
    )
    reflect_below: float = Field(0.8, ge=0, le=1, description="Mean token probability.")
    explore_below: float = Field(0.6, ge=0, le=1, description="Mean token probability.")
    interventions: int = Field(4, ge=0, le=256, description="Most of both, for confidence.")
    cues: dict[Action, Annotated[str, Field(max_length=MAX_PROMPT)]] = Field(
        default_factory=dict, description="Texts put in; default: the marks, or words."
    )
    step_tokens: int = Field(256, ge=1, le=8192, description="Most tokens of a step.")
    max_steps: int = Field(40, ge=1, le=1024, description="Steps after which it only goes on.")

    def samples(self, n: int) -> int:
        """One for each answer; `worst_case` counts the steps."""
        return n

    def worst_case(self, n: int, cap: int, verifier: Verifier | None, budget: Budget) -> WorstCase:  # noqa: ARG002
        """Count each step and each look ahead as a sample, and the end after them."""
        looks = self.max_steps if self.policy == "model" else 0
        given_up = 0 if looks else self.interventions * min(cap, self.step_tokens)
        calls, tokens = n * (self.max_steps + looks + 1), n * (cap + looks + given_up)
        return WorstCase(min(calls, budget.max_calls), min(tokens, budget.max_tokens))

    def unavailable(self, capabilities: Capabilities) -> str | None:
        """The next token's alternatives are needed where the model chooses."""
        given = capabilities.logprobs
        if self.policy == "model" and given is not None and given < ALTERNATIVES:
            return f"the engine gives {given} of the {ALTERNATIVES} alternatives needed"
        return super().unavailable(capabilities)

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Take each answer's steps by itself."""
        parts = session.split(session.n)
        return best_first(await session.side_by_side(map(self._chain, parts)))

    async def rank(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:  # noqa: ARG002
        """Where each chain stands comes first; what it went on from is part of it."""
        parents = {each.parent for each in candidates}
        return newest_first([each for each in candidates if each.id not in parents])

    async def _chain(self, session: Session) -> Candidate:
        """Take a step, choose what to do, and start the next from there or from before it."""
        before, start = session.blank(2)
        left = self.interventions
        for _ in range(self.max_steps):
            if not session.affords([start]):
                break
            (step,) = await session.extend(
                [start], ["\n\n"], tokens=self.step_tokens, keep=session.kept([start])
            )
            if step.done or step.tokens == start.tokens:  # the latter: the budget has no more
                start = step
                break
            if self.policy == "model":
                action = await self._likeliest(session, step)
            else:
                action = self._doubt(step, start) if left else None
            left -= action is not None
            if action is Action.EXPLORE and self.policy == "confidence":
                session.prune([step])
            else:
                before = step
            start = await self._start(session, before, action)
        (answer,) = await session.conclude(start)
        return answer

    async def _start(self, session: Session, before: Candidate, action: Action | None) -> Candidate:
        """Begin a step, with the cue for the action if one was chosen."""
        (start,) = session.branch([before], [1])
        if action is not None:
            cue = self._cue(action)
            text = cue if self.policy == "model" else apart(cue, before.text)
            (start,) = await session.append([start], text)
        return start

    def _cue(self, action: Action) -> str:
        usual = f"<|{action}|>" if self.policy == "model" else WORDS.get(action, "")
        return self.cues.get(action, usual)

    def _doubt(self, step: Candidate, start: Candidate) -> Action | None:
        """Choose by the geometric mean probability of the step's tokens."""
        drawn = [token.logprob for token in step.logprobs[len(start.logprobs) :]]
        confidence = math.exp(sum(drawn) / len(drawn)) if drawn else 1.0
        if confidence < self.explore_below:
            return Action.EXPLORE
        return Action.REFLECT if confidence < self.reflect_below else None

    async def _likeliest(self, session: Session, step: Candidate) -> Action | None:
        """Choose the mark that the model most likely says next, by a token drawn aside."""
        aside = session.fork(session.prompt.messages, formats=True)
        (drawn,) = await aside.extend(
            aside.branch([step], [1]),
            tokens=1,
            keep=session.kept([step]),
            logprobs=ALTERNATIVES,
        )
        places = drawn.logprobs[len(step.logprobs) :]
        chances = {token: chance for place in places[:1] for token, chance in place.top}
        found = [action for action in Action if self._cue(action) in chances]
        return max(found, key=lambda action: chances[self._cue(action)], default=None)
