"""Make rows of a question's replies, one function for each kind."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from training.export.questions import Question, Sample
from training.export.steps import stepped
from training.rows import (
    Conversation,
    Groups,
    Labelled,
    Message,
    Pair,
    Prompted,
    Ranking,
    Row,
    Stepped,
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of the rows that a question could give it gives."""

    per_problem: int | None = None
    """The most rows of a question; of groups, the most replies of a side."""
    hardest: bool = False
    """Pairs take the likeliest wrong replies first, by mean log-probability."""
    soft: bool = False
    """Labels are the verifier's scores where there are any."""
    hard: bool = False
    """Steps are right if any reply through them was; else their label is the share."""
    separator: str = "\n\n"
    """What ended a step for the verifier that scored steps."""
    seed: int = 0


Maker: TypeAlias = Callable[[Question, Selection], Iterator[Row]]


def conversations(question: Question, selection: Selection) -> Iterator[Row]:
    """Yield the right replies that ended by themselves, the best first."""
    for each in sorted(_right(question), key=lambda each: each.worth)[: selection.per_problem]:
        reply = Message(role="assistant", content=each.text)
        yield Conversation(
            messages=(*question.prompt, reply),
            problem=question.problem,
            source=dict(each.source),
        )


def pairs(question: Question, selection: Selection) -> Iterator[Row]:
    """Pair right with wrong replies, each used equally often.

    Without `per_problem` as many as there are of the rarer side, so that none is used twice.
    """
    right, wrong = _sides(question, selection)
    if not right or not wrong:
        return
    most = selection.per_problem or min(len(right), len(wrong))
    for place in range(min(most, math.lcm(len(right), len(wrong)))):
        chosen, rejected = right[place % len(right)], wrong[place % len(wrong)]
        yield Pair(
            **_asked(question),
            chosen=chosen.text,
            rejected=rejected.text,
            margin=_margin(chosen, rejected),
            source={"chosen": chosen.source, "rejected": rejected.source},
        )


def groups(question: Question, selection: Selection) -> Iterator[Row]:
    """Set right against wrong replies, as many of one side as of the other."""
    right, wrong = _sides(question, selection)
    size = min(len(right), len(wrong), selection.per_problem or len(right))
    if size:
        yield Groups(
            **_asked(question),
            chosen=tuple(each.text for each in right[:size]),
            rejected=tuple(each.text for each in wrong[:size]),
            source={
                "chosen": [each.source for each in right[:size]],
                "rejected": [each.source for each in wrong[:size]],
            },
        )


def rankings(question: Question, selection: Selection) -> Iterator[Row]:  # noqa: ARG001
    """Rank replies by score, else right before wrong; of equals, the likeliest stands for all."""
    levels: dict[float, Sample] = {}
    for each in sorted(question.unique, key=lambda each: each.worth):
        value = each.score if each.score is not None else each.right
        if value is not None:
            levels.setdefault(float(value), each)
    ranked = [levels[value] for value in sorted(levels, reverse=True)]
    if len(ranked) > 1:
        yield Ranking(
            **_asked(question),
            replies=tuple(each.text for each in ranked),
            source={"replies": [each.source for each in ranked]},
        )


def labels(question: Question, selection: Selection) -> Iterator[Row]:
    """Label each reply; with `per_problem`, of right and wrong ones in turn."""
    right, wrong = _sides(question, selection, whole=False)
    turns = itertools.zip_longest(right, wrong)
    mixed = [each for turn in turns for each in turn if each is not None]
    for each in mixed[: selection.per_problem]:
        scored = selection.soft and each.score is not None
        label = min(1.0, max(0.0, each.score or 0.0)) if scored else float(bool(each.right))
        yield Labelled(**_asked(question), reply=each.text, label=label, source=dict(each.source))


def steps(question: Question, selection: Selection) -> Iterator[Row]:
    """Label the steps of replies, as the verifier scored them or as the search went on."""
    made = stepped(question, selection.separator, hard=selection.hard)
    yield from itertools.islice(made, selection.per_problem)


def prompts(question: Question, selection: Selection) -> Iterator[Row]:  # noqa: ARG001
    """Give the prompt with its reference, or with what most replies answer."""
    asked, source = _asked(question), dict(question.source)
    if question.reference is None and question.majority is not None:
        answer, agreement = question.majority
        asked["reference"] = answer
        source |= {"reference": "majority", "agreement": round(agreement, 4)}
    yield Prompted(**asked, source=source)


KINDS: Mapping[str, Maker] = {
    Conversation.kind: conversations,
    Pair.kind: pairs,
    Groups.kind: groups,
    Ranking.kind: rankings,
    Labelled.kind: labels,
    Stepped.kind: steps,
    Prompted.kind: prompts,
}
"""Every kind that can be exported, by its name."""


def _asked(question: Question) -> dict[str, Any]:
    return {
        "prompt": question.prompt,
        "problem": question.problem,
        "reference": question.reference,
        "fields": dict(question.fields),
    }


def _right(question: Question) -> list[Sample]:
    return [each for each in question.unique if each.right and each.whole]


def _sides(
    question: Question, selection: Selection, *, whole: bool = True
) -> tuple[list[Sample], list[Sample]]:
    """Return right and wrong replies in an order that the seed and the question draw."""
    draw = random.Random(f"{selection.seed}/{question.problem}")
    right = [each for each in question.unique if each.right and (each.whole or not whole)]
    wrong = [each for each in question.unique if each.right is False]
    draw.shuffle(right)
    draw.shuffle(wrong)
    if selection.hardest:
        wrong.sort(key=lambda each: -each.candidate.mean_logprob)
    return right, wrong


def _margin(chosen: Sample, rejected: Sample) -> float | None:
    if chosen.score is None or rejected.score is None or chosen.score < rejected.score:
        return None
    return chosen.score - rejected.score
