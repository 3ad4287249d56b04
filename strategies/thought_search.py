"""What searches over thoughts share: the prompts that make thoughts, judge them and answer by them.

A thought is a reply to a prompt of its own, not a piece of the answer.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, Field

from strategies.base import Family, Need, Strategy, WorstCase
from strategies.budget import Budget
from strategies.conversation import MAX_PROMPT, fill, holds, question_of, with_question
from strategies.session import Session
from strategies.thoughts import ask, drawn, listed, verdict, vote, whole
from verifiers.base import Verifier
from verifiers.types import UNSCORED, Candidate

PROPOSE = """\
{question}

---
Do not answer the above yet: it is worked out step by step. Write {proposals} different next steps \
that could follow the steps so far, each complete and on one line of its own, and nothing else. \
If the steps so far solve it already, write only: {end}

Steps so far:
{thoughts}"""

SAMPLE = """\
{question}

---
Do not answer the above yet: it is worked out step by step. Write the one next step that follows \
the steps so far, and nothing else. If they solve it already, write only: {end}

Steps so far:
{thoughts}"""

VALUE = """\
{question}

---
The above is worked out step by step. Judge whether the steps so far are right and can lead to a \
right answer. Think briefly, and end with a line that is one word: sure, likely or impossible.

Steps so far:
{thoughts}"""

VOTE = """\
{question}

---
The above is worked out step by step. Below are several ways to begin. Compare them briefly, and \
end with the line "The best choice is X", where X is the number of the most promising one.

{choices}"""

ANSWER = """\
{question}

---
These steps were worked out for the above:
{thoughts}

Write the answer by them, completely and in the form that was asked for."""

VALUES = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}
"""The numbers of the authors' code."""

END = "DONE"
NOTHING = "(none yet)"

State: TypeAlias = tuple[str, ...]
"""The thoughts so far."""


def _shows(template: str) -> str:
    if "{thoughts}" not in template and "{last}" not in template:
        raise ValueError("it lacks {thoughts} or {last}")
    return template


Template: TypeAlias = Annotated[
    str, Field(max_length=MAX_PROMPT), holds("question"), AfterValidator(_shows)
]


@dataclass(eq=False, slots=True)
class Judgements:
    """What states were found to be worth, and the prompts that told."""

    values: dict[State, float] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)

    def value(self, state: State) -> float:
        """Return the value of a state, that of what is unscored where it has none."""
        return self.values.get(state, UNSCORED)

    def best(self, states: Iterable[State]) -> list[State]:
        """Order states by value, those without one last; ties: in the order given."""
        return sorted(states, key=lambda state: -self.value(state))


class ThoughtSearch(Strategy, ABC):
    """A search that makes thoughts, judges the states that they lead to, and answers by the best.

    Prompts have {question} and {thoughts}, or {last}, the last thought.
    """

    family: ClassVar[Family] = "search"

    generate: Literal["propose", "sample"] = Field("propose", description="Makes thoughts.")
    evaluate: Literal["value", "vote", "verifier"] = Field("value", description="Judges states.")
    proposals: int = Field(5, ge=1, le=64, description="Next thoughts of a state.")
    evaluations: int = Field(3, ge=1, le=64, description="Judgements of a state, or votes.")
    temperature: float = Field(0.7, gt=0, le=2, description="Of thoughts and judgements.")
    thought_tokens: int = Field(256, ge=1, le=8192, description="Most tokens of one of these.")
    end: str = Field(END, min_length=1, max_length=64, description="Said where nothing follows.")
    propose: Template = Field(PROPOSE, description="Asks for a list of next thoughts.")
    sample: Template = Field(SAMPLE, description="Asks for one next thought.")
    value: Annotated[str, AfterValidator(_shows)] = Field(
        VALUE, max_length=MAX_PROMPT, description="Asks for the value of a state."
    )
    vote: Annotated[str, holds("question", "choices")] = Field(
        VOTE, max_length=MAX_PROMPT, description="Asks for the best of {choices}."
    )
    answer: Template = Field(ANSWER, description="Asks for the answer.")

    def choices(self, n: int) -> int:
        """Return n: each is written by a state, in turn where there are fewer."""
        return n

    def worst_case(self, n: int, cap: int, verifier: Verifier | None, budget: Budget) -> WorstCase:
        """Count all but the n answers as thoughts and judgements, which are shorter."""
        asked = self.samples(n) - n
        judged = 0 if verifier is None or self.evaluate != "verifier" else verifier.max_tokens
        tokens = asked * (min(cap, self.thought_tokens) + judged) + n * cap
        return WorstCase(min(asked + n, budget.max_calls), min(tokens, budget.max_tokens))

    def required(self) -> frozenset[Need]:
        """A verifier of thoughts sees replies that have not ended."""
        judged = self.evaluate == "verifier"
        return frozenset({Need.SCORES, Need.STEP_SCORES} if judged else ())

    def calls(self, states: int, rounds: int) -> int:
        """Return the most calls to go on from so many states, judged in so many rounds."""
        made = states * (1 if self.generate == "propose" else self.proposals)
        if self.evaluate == "vote":
            return made + rounds * self.evaluations
        each = self.evaluations if self.evaluate == "value" else 1
        return made + states * self.proposals * each

    async def following(self, session: Session, states: Sequence[State]) -> list[list[State]]:
        """Think of the next thoughts of each state, at most `proposals`, each once."""
        listing = self.generate == "propose"
        template, read = (self.propose, listed) if listing else (self.sample, whole)
        prompts = [self._filled(template, session, state) for state in states]
        replies = await self._ask(session, prompts, 1 if listing else self.proposals)
        thoughts = [[t for each in some for t in read(each, self.end)] for some in replies]
        return [
            [(*state, thought) for thought in list(dict.fromkeys(found))[: self.proposals]]
            for state, found in zip(states, thoughts, strict=True)
        ]

    async def judge(self, session: Session, states: Sequence[State], known: Judgements) -> None:
        """Find out what states are worth; what could not be paid or read stays without a value."""
        if self.evaluate == "vote":
            known.values.update(await self._votes(session, states))
            return
        new = [state for state in states if state not in known.values]
        if self.evaluate == "verifier":
            known.values.update(await self._scores(session, new))
        else:
            known.values.update(await self._means(session, new, known.told))

    async def write(self, session: Session, states: Sequence[State]) -> list[Candidate]:
        """Write n answers by the states in turn; those by one state alone stream."""
        authors = [self._author(session, state) for state in states]
        if len(authors) == 1:
            return await session.conclude(authors[0], session.n)
        shares = [len(range(place, session.n, len(authors))) for place in range(len(authors))]
        written = await session.side_by_side(
            author.sample(share) for author, share in zip(authors, shares, strict=True)
        )
        return [each for some in written for each in some]

    def _author(self, session: Session, state: State) -> Session:
        if not state:
            return session
        prompt = self._filled(self.answer, session, state)
        messages = with_question(session.prompt.messages, prompt)
        return session.fork(messages, answers=True, formats=True)

    async def _means(
        self, session: Session, states: Sequence[State], told: dict[str, float]
    ) -> dict[State, float]:
        """Value each state several times; prompts that read the same only once."""
        prompts = [self._filled(self.value, session, state) for state in states]
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in told]
        replies = await self._ask(session, new, self.evaluations)
        for prompt, some in zip(new, replies, strict=True):
            words = [verdict(each, tuple(VALUES)) for each in some]
            if some:
                told[prompt] = mean([VALUES[word] for word in words if word is not None])
        return {
            s: told[prompt] for s, prompt in zip(states, prompts, strict=True) if prompt in told
        }

    async def _votes(self, session: Session, states: Sequence[State]) -> dict[State, float]:
        """Count the votes of each state."""
        if not states:
            return {}
        listing = "\n\n".join(f"Choice {i}:\n{text_of(each)}" for i, each in enumerate(states, 1))
        question = question_of(session.prompt.messages)
        prompt = fill(self.vote, question=question, choices=listing)
        (replies,) = await self._ask(session, [prompt], self.evaluations)
        named = [vote(each, len(states)) for each in replies]
        return {state: float(named.count(place)) for place, state in enumerate(states)}

    async def _scores(self, session: Session, states: Sequence[State]) -> dict[State, float]:
        """Have the verifier score the thoughts as a reply to the request's own prompt."""
        reader = session.fork(session.prompt.messages, formats=True)
        shown = [
            replace(blank, text=text_of(state))
            for blank, state in zip(reader.blank(len(states)), states, strict=True)
        ]
        (scored,) = await drawn([reader.score(shown)])
        return {state: each.score for state, each in zip(states, scored, strict=False)}

    async def _ask(self, session: Session, prompts: Sequence[str], n: int) -> list[list[Candidate]]:
        most = min(self.thought_tokens, session.cap)
        return await ask(session, prompts, n, temperature=self.temperature, max_tokens=most)

    def _filled(self, template: str, session: Session, state: State) -> str:
        return fill(
            template,
            question=question_of(session.prompt.messages),
            thoughts=text_of(state) or NOTHING,
            last=state[-1] if state else NOTHING,
            proposals=str(self.proposals),
            end=self.end,
        )


def mean(values: Sequence[float]) -> float:
    """Return the mean, the value of what is unscored where there is none."""
    return math.fsum(values) / len(values) if values else UNSCORED


def text_of(state: State) -> str:
    """Write a state as a text: a thought a line."""
    return "\n".join(state)
