"""GSM8K: grade-school problems whose answers are numbers (Cobbe et al., 2110.14168)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from loadtests.tasks.base import BOXED, Problem, Task, conversation, data_rows

FIRST_ROW = 6_973
"""The development fold begins at this line of the train file, counted from 0."""


class GSM8K(Task):
    """The last 500 problems of GSM8K's train file. An id is its line there, from 0."""

    name: ClassVar[str] = "gsm8k"

    def problems(self) -> Sequence[Problem]:
        """Return the 500 problems."""
        return [
            Problem(
                str(row),
                conversation(each["question"], BOXED),
                each["answer"].rpartition("#### ")[2].strip(),
            )
            for row, each in enumerate(data_rows("gsm8k_development.jsonl.gz"), FIRST_ROW)
        ]
