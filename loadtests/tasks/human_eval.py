"""HumanEval: functions to complete (Chen et al., 2107.03374)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from loadtests.tasks.base import Problem, Task, Verdict, conversation, data_rows
from verifiers.types import Candidate, Equivalence

_REQUEST = "Complete this function. Answer with the whole function in one Python code block."


class HumanEval(Task):
    """164 Python functions. `fields` holds the tests and the name that they call.

    Replies are recorded ungraded: judging them means running what a model wrote, which needs a
    sandbox.
    """

    name: ClassVar[str] = "human_eval"

    def problems(self) -> Sequence[Problem]:
        """Return the 164 problems; the reference is the body that people wrote."""
        return [
            Problem(
                each["task_id"],
                conversation(f"{_REQUEST}\n\n```python\n{each['prompt'].strip()}\n```"),
                each["canonical_solution"],
                {"tests": each["test"], "entry_point": each["entry_point"]},
            )
            for each in data_rows("human_eval.jsonl.gz")
        ]

    async def grade(
        self,
        problem: Problem,  # noqa: ARG002
        replies: Sequence[Candidate],
        equivalence: Equivalence,  # noqa: ARG002
    ) -> list[Verdict]:
        """Judge nothing: every verdict is None."""
        return [Verdict(None, None, None) for _ in replies]
