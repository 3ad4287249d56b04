"""HumanEval: functions to complete (Chen et al., 2107.03374)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import ClassVar

from loadtests.tasks.base import Problem, Task, Verdict, conversation, data_rows
from loadtests.visible_examples import visible_examples
from verifiers.python_tests import PythonTests, PythonTestsFields
from verifiers.types import Candidate, Equivalence

_REQUEST = "Complete this function. Answer with the whole function in one Python code block."


class HumanEval(Task):
    """164 Python functions. `fields` holds the hidden tests, and the examples that a prompt shows.

    A reply is right where its code passes the hidden tests, in a sandbox: the verifier
    `python_tests`. Without a sandbox replies are recorded ungraded.
    """

    name: ClassVar[str] = "human_eval"

    def problems(self) -> Sequence[Problem]:
        """Return the 164 problems; the reference is the body that people wrote."""
        return [
            Problem(
                each["task_id"],
                conversation(f"{_REQUEST}\n\n```python\n{each['prompt'].strip()}\n```"),
                each["canonical_solution"],
                {
                    "prompt": each["prompt"],
                    "tests": f"{each['test']}\ncheck({each['entry_point']})",
                    "entry_point": each["entry_point"],
                    "examples": visible_examples(each["prompt"], each["entry_point"]),
                },
            )
            for each in data_rows("human_eval.jsonl.gz")
        ]

    async def grade(
        self,
        problem: Problem,
        replies: Sequence[Candidate],
        equivalence: Equivalence,  # noqa: ARG002
    ) -> list[Verdict]:
        """Run the hidden tests; a reply without code is wrong."""
        async with aclosing(PythonTests()) as verifier:
            await verifier.start()
            if verifier.missing is not None:
                return [Verdict(None, None, None) for _ in replies]
            given = PythonTestsFields(
                tests=[problem.fields["tests"]],
                prelude=problem.fields["prompt"],
                entry_point=problem.fields["entry_point"],
            )
            scores = await verifier.judge(given, replies)
        return [Verdict(None, score.value == 1.0, score.value == 1.0) for score in scores]
