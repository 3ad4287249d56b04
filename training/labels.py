"""Step labels without people: finish the reply from its steps, and see how often that goes right.

A method is a plan: a generator that yields beginnings of a reply, is sent the verdicts on the
completions of each, and returns the labels. So many replies are labelled side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple, Protocol, TypeAlias

from training.rows import Prompted, Stepped

Verdicts: TypeAlias = Sequence[Sequence[bool]]
"""For each beginning, whether each of its completions is right."""


class Beginning(NamedTuple):
    """A reply as far as some step, and the prompt that it answers."""

    row: Prompted
    text: str


class Completer(Protocol):
    """Finishes replies, and knows which of the ends are right."""

    def __call__(self, beginnings: Sequence[Beginning], n: int) -> Verdicts:
        """Finish each beginning n times, and judge the whole replies."""


@dataclass(frozen=True, slots=True)
class StepLabels:
    """What a method says of a reply's steps."""

    labels: tuple[float, ...]
    values: tuple[float | None, ...]
    """The share of completions after each step that are right; None where nobody looked."""
    probes: int
    """Beginnings that were completed, n times each."""


Plan: TypeAlias = Generator[Sequence[str], Verdicts, StepLabels]


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply whose steps want labels."""

    row: Prompted
    steps: tuple[str, ...]
    """Joined as they are, they are the reply."""
    right: bool | None = None
    """Whether the whole reply is; None: that is found out like the rest."""


Method: TypeAlias = Callable[[Reply], Plan]


def math_shepherd(reply: Reply, *, soft: bool = True) -> Plan:
    """Complete from every step (Math-Shepherd, 2312.08935).

    The soft label is the share of completions that are right, the hard one says whether any is.
    The last step's label is the reply's own verdict where that is known: there is nothing to
    complete. The paper completes 8 times and trains with hard labels.
    """
    beginnings = list(itertools.accumulate(reply.steps))
    if reply.right is not None:
        beginnings.pop()
    verdicts = (yield beginnings) if beginnings else ()
    values = [fmean(each) for each in verdicts]
    if reply.right is not None:
        values.append(float(reply.right))
    labels = values if soft else [float(value > 0) for value in values]
    return StepLabels(tuple(labels), tuple(values), len(beginnings))


def omega_prm(reply: Reply) -> Plan:
    """Find the first wrong step by halving (OmegaPRM, 2406.06592).

    A step is good as long as some completion from it is right. Steps before the first bad one are
    labelled 1, it and what follows 0: at most ⌈log₂(m + 1)⌉ of m steps are completed. It rests on
    the paper's assumption that nothing right comes after a wrong step. A reply that is known to be
    right has no wrong step, and costs nothing.

    We deviate: the paper grows a tree of completions and searches each of them; this is the search
    of the one reply.
    """
    steps, beginnings = len(reply.steps), list(itertools.accumulate(reply.steps))
    values: list[float | None] = [None] * steps
    if reply.right is not None:
        values[-1] = float(reply.right)
    # Steps before `low` are good; the one at `high` is bad, or behind the last.
    low = steps if reply.right else 0
    high = steps - (reply.right is False)
    probes = 0
    while low < high:
        middle = (low + high) // 2
        (verdicts,) = yield [beginnings[middle]]
        values[middle] = fmean(verdicts)
        probes += 1
        if any(verdicts):
            low = middle + 1
        else:
            high = middle
    labels = (1.0,) * low + (0.0,) * (steps - low)
    return StepLabels(labels, tuple(values), probes)


METHODS: dict[str, Method] = {"math_shepherd": math_shepherd, "omega_prm": omega_prm}
"""Every way to label steps, by its name."""


def label_steps(
    replies: Sequence[Reply], method: Method, complete: Completer, n: int, at_once: int = 64
) -> Iterator[tuple[Stepped, StepLabels]]:
    """Yield each reply's row, and how its labels came to be; `at_once` replies side by side."""
    for start in range(0, len(replies), at_once):
        batch = replies[start : start + at_once]
        found = _together([(each.row, method(each)) for each in batch], complete, n)
        for reply, labels in zip(batch, found, strict=True):
            yield _row(reply, labels, n), labels


def _together(
    plans: Sequence[tuple[Prompted, Plan]], complete: Completer, n: int
) -> list[StepLabels]:
    """Run plans in step: in each round, what all of them ask is one question."""
    ended: dict[int, StepLabels] = {}
    answers: dict[int, Verdicts | None] = dict.fromkeys(range(len(plans)))
    while answers:
        asked: dict[int, list[Beginning]] = {}
        for place, verdicts in answers.items():
            row, plan = plans[place]
            try:
                texts = next(plan) if verdicts is None else plan.send(verdicts)
            except StopIteration as end:
                ended[place] = end.value
            else:
                asked[place] = [Beginning(row, text) for text in texts]
        flat = [each for beginnings in asked.values() for each in beginnings]
        told = iter(complete(flat, n) if flat else ())
        answers = {
            place: list(itertools.islice(told, len(beginnings)))
            for place, beginnings in asked.items()
        }
    return [ended[place] for place in range(len(plans))]


def _row(reply: Reply, found: StepLabels, n: int) -> Stepped:
    row = reply.row
    told = {"completions": n * found.probes, "values": found.values}
    return Stepped(
        prompt=row.prompt,
        problem=row.problem,
        reference=row.reference,
        fields=row.fields,
        steps=reply.steps,
        labels=found.labels,
        source={**row.source, **told},
    )
