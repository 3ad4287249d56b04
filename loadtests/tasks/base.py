"""What a task is: problems with references, and a way to tell right replies from wrong ones."""

from __future__ import annotations

import gzip
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from verifiers.answers import answer_of, extract
from verifiers.canonical import canonical
from verifiers.types import Candidate, Equivalence, JSONObject, Prompt

BOXED = "Solve the problem step by step. Finish with the final answer in \\boxed{}."
"""The system prompt of tasks whose answer is a number or a formula."""


DATA = Path(__file__).parents[1] / "data"
"""Problems of others; its README tells their sources and licences."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One question of a task."""

    id: str
    """Unique in its task, and the same in every run."""
    messages: tuple[JSONObject, ...]
    """The conversation as it is sent, system prompt included."""
    reference: str
    """The answer that people gave."""
    fields: JSONObject = field(default_factory=dict)
    """What else the task knows: a level, a subject, tests."""

    @property
    def question(self) -> str:
        """The text of the last user message."""
        return str(self.messages[-1]["content"])


class Verdict(NamedTuple):
    """What a task says about one reply. None: it cannot be judged here."""

    answer: str | None
    """The answer in its canonical form; None: the reply abstains."""
    correct: bool | None
    """The marked answer is right. What abstains is wrong."""
    lenient: bool | None
    """It is right, or nothing is marked and the last number is right."""


class Task(ABC):
    """A set of problems. A subclass is one file of `loadtests/tasks/`."""

    name: ClassVar[str]
    """As `forethought bench record --task` is given it, alone or as NAME:ARGUMENT."""
    takes: ClassVar[str] = ""
    """What the argument is, in words; empty: there is none."""

    def __init__(self, argument: str = "", seed: int = 0) -> None:
        if argument and not self.takes:
            raise ValueError(f"the task {self.name} takes no argument, not {argument!r}")
        self.argument, self.seed = argument, seed

    @property
    def spec(self) -> str:
        """The name with its argument: what finds this very task again."""
        return f"{self.name}:{self.argument}" if self.argument else self.name

    @abstractmethod
    def problems(self) -> Sequence[Problem]:
        """Return all problems, always in the same order."""

    async def grade(
        self, problem: Problem, replies: Sequence[Candidate], equivalence: Equivalence
    ) -> list[Verdict]:
        """Judge replies to one problem as the server itself reads and compares answers."""
        prompt = Prompt(problem.messages)
        strict = [answer_of(reply, prompt) for reply in replies]
        lenient = [
            answer or extract(each.text, lenient=True)
            for answer, each in zip(strict, replies, strict=True)
        ]
        rights = await _equal([*strict, *lenient], problem.reference, equivalence)
        return [
            Verdict(canonical(answer) or None if answer else None, right, kind)
            for answer, right, kind in zip(
                strict, rights[: len(replies)], rights[len(replies) :], strict=True
            )
        ]


def conversation(question: str, system: str = "") -> tuple[JSONObject, ...]:
    """Return the messages that ask one question."""
    opening = ({"role": "system", "content": system},) if system else ()
    return (*opening, {"role": "user", "content": question})


def data_rows(name: str) -> list[dict[str, Any]]:
    """Read a compressed JSONL file of `loadtests/data/`."""
    with gzip.open(DATA / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


async def _equal(
    answers: Sequence[str | None], reference: str, equivalence: Equivalence
) -> list[bool]:
    truth = canonical(reference)
    keys = [canonical(answer) if answer else "" for answer in answers]
    verdicts = iter(await equivalence.equal([(key, truth) for key in keys if key]))
    return [bool(key) and next(verdicts) for key in keys]
