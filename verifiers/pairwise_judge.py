"""A language model as the judge of pairs of replies: a tournament."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal, TypeAlias

from pydantic import Field

from verifiers.judging import ABSTAINED, QUOTED, ModelJudge, Question, conversation, distinct
from verifiers.turns import spoken
from verifiers.types import Candidate, Powers, Score, Task

LABELS = ["A", "B"]
DRAW = 0.5

INSTRUCTION = f"You compare two replies of an assistant by one criterion.{QUOTED}"

QUESTION = """\
Conversation:
{conversation}

Reply A:
{first}

Reply B:
{second}

Criterion: {criterion}
The better reply (one letter, A or B):"""

Order: TypeAlias = tuple[int, int]
"""Two replies, by their places, as a question shows them: first, second."""
Wins: TypeAlias = Mapping[Order, float]
"""The probability that the first is named the better one, where a question was answered."""


class PairwiseJudge(ModelJudge):
    """Ask a model which of two replies is better, and let all meet the best `pivots` of them.

    The Probabilistic Pivot Tournament of LLM-as-a-Verifier (2607.05391): a ring in which each reply
    is shown once first and once second; the `pivots` of the highest mean there; then everyone
    against these, which for N replies and k pivots takes O(N·k) questions of one token instead of
    O(N²). An answer is p(A) / (p(A) + p(B)). Every pair is asked in both orders and its win
    probability averaged over them, so that a preference for a position cancels (2306.05685). The
    score is the mean win probability over the pivots, in [0, 1].

    We deviate. The paper takes means over all comparisons of a reply, so that a pivot meets weak
    replies and the others meet pivots only, and asks each pair once; here all are measured against
    the same opponents, a pivot being a draw (0.5) with itself, and the ring elects alone. The
    papers' preference comes from two grades, ours from the label itself.

    Equal replies enter once and are a draw with each other. A pair that cannot be read in both
    orders, or paid, is left out; a reply without any pair, a lone one too, is abstained on. No
    order of arrival matters. What a judge as small as the policy is worth, docs/verifiers.md tells.
    """

    type: Literal["pairwise_judge"] = "pairwise_judge"
    paper: ClassVar[str] = (
        "Kwok et al., LLM-as-a-Verifier: A General-Purpose Verification Framework, 2607.05391"
    )

    pivots: int = Field(2, ge=1, le=32, description="Opponents of every reply.")

    @property
    def joint(self) -> bool:
        """It compares."""
        return True

    @property
    def calls(self) -> int:
        """A place in the ring, and both orders against each pivot, by each criterion."""
        return self.questions * (1 + 2 * self.pivots)

    @property
    def max_tokens(self) -> int:
        """One letter a question."""
        return self.calls

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Ask the ring's questions at the same time, then those of the pivots."""
        texts = distinct(spoken(each) for each in candidates)
        if len(texts) < 2:
            return [Score(DRAW) if len(candidates) > 1 else ABSTAINED for _ in candidates]
        count = len(texts)
        ring = [(each, (each + 1) % count) for each in range(count)]
        wins = await self._ask(task, texts, ring, powers)
        pivots = leaders(wins, count)[: self.pivots]
        orders = [order for order in pivot_orders(count, pivots) if order not in ring]
        wins |= await self._ask(task, texts, orders, powers)
        scores = dict(zip(texts, scores_against(pivots, wins, count), strict=True))
        return [scores[spoken(each)] for each in candidates]

    async def _ask(
        self, task: Task, texts: Sequence[str], orders: Sequence[Order], powers: Powers
    ) -> dict[Order, float]:
        """Ask in these orders; leave out what some criterion got no answer for."""
        criteria = self.weighted_criteria(task)
        questions = [
            Question(self.prompt(task, INSTRUCTION, content), LABELS)
            for order in orders
            for content in self._contents(
                task, [texts[each] for each in order], [criterion for criterion, _ in criteria]
            )
        ]
        answers = iter(await self.shares(questions, powers))
        wins = {}
        for order in orders:
            shares = [(next(answers), weight) for _, weight in criteria]
            if all(share for share, _ in shares):
                wins[order] = math.fsum(share[0] * weight for share, weight in shares)
        return wins

    def _contents(self, task: Task, pair: Sequence[str], criteria: Sequence[str]) -> list[str]:
        """Write the question by each criterion, which comes last for the prefix cache."""
        before = conversation(task)
        first, second = self.quote(pair)
        return [
            QUESTION.format(conversation=before, first=first, second=second, criterion=criterion)
            for criterion in criteria
        ]


def leaders(wins: Wins, count: int) -> list[int]:
    """Order replies by their mean win probability, best first; those without an answer last."""
    met: list[list[float]] = [[] for _ in range(count)]
    for (first, second), win in wins.items():
        met[first].append(win)
        met[second].append(1 - win)
    means = [math.fsum(each) / len(each) if each else -1.0 for each in met]
    return sorted(range(count), key=lambda each: -means[each])


def pivot_orders(count: int, pivots: Iterable[int]) -> list[Order]:
    """List both orders of every pair with a pivot, those of a pair together."""
    pairs = {(min(each, pivot), max(each, pivot)) for pivot in pivots for each in range(count)}
    return [
        order
        for one, other in sorted(pairs)
        if one != other
        for order in ((one, other), (other, one))
    ]


def scores_against(pivots: Sequence[int], wins: Wins, count: int) -> list[Score]:
    """Average each reply's win probability over the pivots; a pivot is a draw with itself."""
    values: list[list[float]] = [[] for _ in range(count)]
    met: set[int] = set()
    for pivot in pivots:
        for each in range(count):
            orders = ((each, pivot), (pivot, each))
            if each == pivot:
                values[each].append(DRAW)
            elif all(order in wins for order in orders):
                values[each].append((wins[orders[0]] + 1 - wins[orders[1]]) / 2)
                met |= {each, pivot}
    return [
        Score(math.fsum(given) / len(given)) if each in met else ABSTAINED
        for each, given in enumerate(values)
    ]
