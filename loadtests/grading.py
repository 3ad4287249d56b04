"""Judge recorded samples by their task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from loadtests.pools import Manifest, Pool, Sample
from loadtests.tasks.base import Problem, Task
from loadtests.tasks.discovery import task_named
from verifiers.equality import AnswerEquality
from verifiers.types import Equivalence


class Grader:
    """Gives samples their answers and verdicts; the rest of a row stays as it is."""

    def __init__(self, task: Task, problems: Iterable[Problem], equivalence: Equivalence) -> None:
        self._task, self._equivalence = task, equivalence
        self._problems = {problem.id: problem for problem in problems}

    async def graded(self, rows: Sequence[Sample]) -> list[Sample]:
        """Return the rows with their verdicts, those of one problem together."""
        groups: dict[str, list[Sample]] = defaultdict(list)
        for row in rows:
            groups[row.problem].append(row)
        judged: list[Sample] = []
        for name, group in groups.items():
            replies = [row.candidate() for row in group]
            verdicts = await self._task.grade(self._problems[name], replies, self._equivalence)
            judged += [
                replace(row, answer=answer, correct=correct, lenient=lenient)
                for row, (answer, correct, lenient) in zip(group, verdicts, strict=True)
            ]
        return judged


async def grade_pool(pool: Pool) -> list[Sample]:
    """Judge all rows of a pool by today's rules; of rows recorded twice the first is kept."""
    once: dict[tuple[str, int], Sample] = {}
    for row in pool.rows:
        once.setdefault((row.problem, row.sample), row)
    equality = AnswerEquality()
    try:
        grader = Grader(_task_of(pool.manifest), pool.manifest.problems, equality)
        return await grader.graded(list(once.values()))
    finally:
        await equality.aclose()


def _task_of(manifest: Manifest) -> Task:
    return task_named(manifest.task, manifest.seed)
