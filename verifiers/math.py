"""The rule `math`: the answer means the same as the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from verifiers.answers import answer_key, answer_of, extract
from verifiers.base import Verifier
from verifiers.reference import ReferenceFields, reference_of, verdicts
from verifiers.types import Candidate, Powers, Score, Task


class Math(Verifier):
    r"""Equal to the reference, symbolically where needed.

    The reference may be a bare answer or a worked solution that marks one (`\boxed{…}`, `#### 5`).
    Numbers are exact: for a tolerance use `numeric`.
    """

    paper = "Math-Verify, https://github.com/huggingface/Math-Verify"
    Fields = ReferenceFields

    type: Literal["math"] = "math"

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Score 1 where the answer is the reference, else 0."""
        reference = reference_of(task)
        right = answer_key(extract(reference) or reference, task.prompt)
        answers = [answer_of(candidate, task.prompt) for candidate in candidates]
        keys = [answer_key(answer, task.prompt) for answer in answers if answer is not None]
        equal = iter(await powers.equivalence.equal([(right, key) for key in keys]))
        return verdicts(None if answer is None else next(equal) for answer in answers)
