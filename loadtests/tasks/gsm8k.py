"""GSM8K: grade-school problems whose answers are numbers (Cobbe et al., 2110.14168)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from loadtests.tasks.base import BOXED, Problem, Task, conversation, data_rows

FIRST_ROW = 6_973
"""The development fold begins at this line of the train file, counted from 0."""


class GSM8K(Task):
    """The last 500 problems of GSM8K's train file. An id is its line there, from 0.

    `gsm8k:training` are the first 1,000 of that file: what training may see.
    """

    name: ClassVar[str] = "gsm8k"
    takes: ClassVar[str] = "training: the first 1,000 problems of that file"

    def __init__(self, argument: str = "", seed: int = 0) -> None:
        super().__init__(argument, seed)
        if argument not in ("", "training"):
            raise ValueError(f"gsm8k takes {self.takes}, not {argument!r}")

    def problems(self) -> Sequence[Problem]:
        """Return the problems in the file's order."""
        fold, first = ("training", 0) if self.argument else ("development", FIRST_ROW)
        return [
            Problem(
                str(row),
                conversation(each["question"], BOXED),
                each["answer"].rpartition("#### ")[2].strip(),
            )
            for row, each in enumerate(data_rows(f"gsm8k_{fold}.jsonl.gz"), first)
        ]
