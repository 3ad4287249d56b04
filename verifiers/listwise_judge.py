"""A language model as the judge of all replies at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import ClassVar, Literal

from pydantic import Field

from verifiers.judging import ABSTAINED, QUOTED, ModelJudge, Question, conversation, distinct
from verifiers.labels import ALTERNATIVES
from verifiers.turns import spoken
from verifiers.types import Candidate, Powers, Score, Task

LABELS = ascii_uppercase[:ALTERNATIVES]
"""One token each; more than the alternatives that engines give could not all be read."""

INSTRUCTION = f"You find the best of several replies of an assistant by one criterion.{QUOTED}"

QUESTION = """\
Conversation:
{conversation}

{replies}

Criterion: {criterion}
The best reply (one letter, {labels}):"""

REPLY = """\
Reply {label}:
{reply}"""


class ListwiseJudge(ModelJudge):
    """Show a model all replies, and read from one token how likely it names each the best.

    The probabilities of the letters as the next token rank all replies at once, as in FIRST
    (2406.15657, which trains for it). They are asked for in `orders` rotations of the replies and
    averaged, as a model prefers places in a list (permutation self-consistency, 2310.07712, which
    samples orders and whole rankings); as many orders as replies show each once in every place.
    The score is the probability of being the best: those of all different replies sum to 1.

    More than `heat` replies are split into heats of nearly equal size, whose winners meet again,
    in heats if need be. A loser gets its winner's probability times its chance against the winner
    in the heat, p/p(winner): the ratio does not depend on what else is in the list (Luce's choice
    axiom, our assumption).

    Equal replies are shown once and share a score. What splits and orders replies comes from their
    texts, not from their arrival. An order that cannot be read, or paid, is left out; where none
    can, the heat is abstained on, and so is everyone where there are no two different replies, or
    no final. What a judge as small as the policy is worth, docs/verifiers.md tells.
    """

    type: Literal["listwise_judge"] = "listwise_judge"
    paper: ClassVar[str] = (
        "Reddy et al., FIRST: Faster Improved Listwise Reranking with Single Token Decoding, "
        "2406.15657"
    )

    orders: int = Field(2, ge=1, le=len(LABELS), description="Rotations of each list.")
    heat: int = Field(len(LABELS), ge=5, le=len(LABELS), description="Most replies of a question.")

    @property
    def joint(self) -> bool:
        """It compares."""
        return True

    @property
    def calls(self) -> int:
        """Count by the smallest lists, which cost most per reply.

        A list of two takes at most two orders. Heats have at least three replies, as `heat` is at
        least 5: with finals, there are at most N/2 lists, and 3·N/2 places in them.
        """
        return math.ceil(self.questions * min(self.orders, 3) / 2)

    @property
    def max_tokens(self) -> int:
        """One letter a question."""
        return self.calls

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Ask about all heats at the same time, then about their winners."""
        texts = distinct(spoken(each) for each in candidates)
        chances = await self._chances(task, texts, powers) if len(texts) > 1 else {}
        whole = math.fsum(chances.values())
        scores = {text: Score(chance / whole) for text, chance in chances.items()}
        return [scores.get(spoken(each), ABSTAINED) for each in candidates]

    async def _chances(
        self, task: Task, texts: Sequence[str], powers: Powers
    ) -> Mapping[str, float]:
        """Return how likely each is the best of these, up to a factor that all share."""
        heats = split(texts, self.heat)
        named = await self._named_best(task, heats, powers)
        if len(heats) == 1:
            return named[0]
        winners = [max(heat, key=heat.__getitem__) for heat in named if heat]
        if len(winners) < 2:
            return {}
        final = await self._chances(task, winners, powers)
        return {
            text: final[winner] * chance / heat[winner]
            for winner, heat in zip(winners, filter(None, named), strict=True)
            if winner in final
            for text, chance in heat.items()
        }

    async def _named_best(
        self, task: Task, heats: Sequence[Sequence[str]], powers: Powers
    ) -> list[dict[str, float]]:
        """Return for each heat the mean probabilities of being named; empty: unreadable."""
        criteria = self.weighted_criteria(task)
        lists = [[*rotations(heat, self.orders)] for heat in heats]
        questions = [
            Question(self.prompt(task, INSTRUCTION, content), LABELS[: len(texts)])
            for orders in lists
            for texts in orders
            for content in self._contents(task, texts, [criterion for criterion, _ in criteria])
        ]
        answers = iter(await self.shares(questions, powers))
        named = []
        for heat, orders in zip(heats, lists, strict=True):
            read = []
            for texts in orders:
                shares = [(next(answers), weight) for _, weight in criteria]
                if all(share for share, _ in shares):
                    read.append(_by_text(texts, shares))
            named.append({text: _mean([each[text] for each in read]) for text in heat if read})
        return named

    def _contents(self, task: Task, texts: Sequence[str], criteria: Sequence[str]) -> list[str]:
        """Write the question by each criterion, which comes last for the prefix cache."""
        labelled = zip(LABELS, self.quote(texts), strict=False)
        replies = "\n\n".join(REPLY.format(label=each, reply=reply) for each, reply in labelled)
        before, labels = conversation(task), f"{LABELS[0]} to {LABELS[len(texts) - 1]}"
        return [
            QUESTION.format(
                conversation=before, replies=replies, criterion=criterion, labels=labels
            )
            for criterion in criteria
        ]


def split(texts: Sequence[str], most: int) -> list[Sequence[str]]:
    """Deal texts out into as few heats as can be, of sizes that differ by one at most."""
    count = -(-len(texts) // most)
    return [texts[start::count] for start in range(count)]


def rotations(texts: Sequence[str], count: int) -> Iterator[Sequence[str]]:
    """Give up to `count` different rotations, evenly spread, the first as it is."""
    count = min(count, len(texts))
    for turn in range(count):
        start = turn * len(texts) // count
        yield [*texts[start:], *texts[:start]]


def _by_text(
    texts: Sequence[str], shares: Sequence[tuple[Sequence[float], float]]
) -> dict[str, float]:
    """Weigh what the criteria say of each text of a list."""
    return {
        text: math.fsum(share[at] * weight for share, weight in shares)
        for at, text in enumerate(texts)
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
