"""The short version of `python -m loadtests.batch_faults`: one kill of each part."""

import asyncio
from pathlib import Path

import pytest
from rich.progress import Progress

from loadtests.batch_faults import Plan, Verdict, report, run

PARTS = ("Redis", "server", "worker")


def test_moments_are_drawn_over_the_course_of_the_work_by_the_seed() -> None:
    plan = Plan(lines=1000, kills=5, seed=3)
    moments = plan.moments(PARTS)
    assert moments == plan.moments(PARTS) != Plan(1000, 5, 4).moments(PARTS)
    marks = [mark for mark, _, _ in moments]
    assert marks == sorted(marks)
    assert 30 <= marks[0] < marks[-1] <= 950
    assert sorted(part for _, part, _ in moments) == [part for part in PARTS for _ in range(5)]


def test_a_verdict_asks_for_one_answer_a_line() -> None:
    good = Verdict(2, 1.0, status="completed", counts={"completed": 2}, answered_once=2)
    assert good.passed
    for change in (
        {"status": "expired"},
        {"answered_once": 1},
        {"answered_wrong": ["line-7"]},
        {"errors": 1},
        {"counts": {"completed": 1}},
    ):
        changed = Verdict(2, 1.0, status="completed", counts={"completed": 2}, answered_once=2)
        for name, value in change.items():
            setattr(changed, name, value)
        assert not changed.passed


@pytest.mark.slow
def test_every_line_is_answered_once_though_everything_is_killed(tmp_path: Path) -> None:
    plan = Plan(lines=60, kills=1, seed=1, longest_s=0.5)
    verdict = asyncio.run(run(plan, tmp_path, Progress(disable=True)))
    assert verdict.passed, report(plan, verdict)
    assert sorted(each.part for each in verdict.kills) == sorted(PARTS)
    assert report(plan, verdict).count("\n|") >= 5
