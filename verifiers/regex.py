"""The rule `regex`: a regular expression is found in the reply."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from verifiers.base import RequestFields, Verifier
from verifiers.reference import verdicts
from verifiers.types import Candidate, Powers, Score, Task

_LONGEST = 500
_CASE_FLAG = re.compile(r"\(\?[a-zA-Z]*i[a-zA-Z]*-?[a-zA-Z]*[:)]")


class RegexFields(RequestFields):
    """The pattern to look for."""

    pattern: str = Field(
        min_length=1,
        max_length=_LONGEST,
        description="A regular expression in Python's syntax, found anywhere in the visible reply.",
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        return compiling(pattern)


class Regex(Verifier):
    """A pattern is found in the visible reply; an unfinished reply abstains.

    Matching runs in the killable processes of the answer comparison, with their time limits: a
    pattern that backtracks for ever does not match.
    """

    Fields = RegexFields

    type: Literal["regex"] = "regex"

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Score 1 where the pattern is found, else 0."""
        texts = [candidate.content for candidate in candidates if candidate.done]
        found = iter(await powers.equivalence.matches(task.fields["pattern"], texts))
        return verdicts(next(found) if candidate.done else None for candidate in candidates)


def compiling(pattern: str) -> str:
    """Return the pattern, or raise ValueError if it is not one that compiles at once.

    Case-insensitive character classes take seconds to compile: only the worker compiles those.
    """
    bare = pattern.removeprefix("(?i)")
    if _CASE_FLAG.search(bare):
        raise ValueError("the flag i is only allowed as (?i) at the start")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(bare)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return pattern
