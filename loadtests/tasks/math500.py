"""MATH-500: competition problems with answers in LaTeX (Lightman et al., 2305.20050)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from loadtests.tasks.base import BOXED, Problem, Task, conversation, data_rows


class Math500(Task):
    """Every second problem of MATH-500; `fields` tells subject and level. Ids are MATH's own."""

    name: ClassVar[str] = "math500"

    def problems(self) -> Sequence[Problem]:
        """Return the 250 problems."""
        return [
            Problem(
                each["unique_id"],
                conversation(each["problem"], BOXED),
                each["answer"],
                {"subject": each["subject"], "level": each["level"]},
            )
            for each in data_rows("math500_development.jsonl.gz")
        ]
