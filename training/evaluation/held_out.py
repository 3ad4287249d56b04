"""Which questions a checkpoint was trained on, as its recipes say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from loadtests.tasks.base import Problem
from loadtests.tasks.discovery import task_named
from server.checkpoints.library import CheckpointLibrary
from training.data import find_files
from training.export.contamination import read_questions
from verifiers.manifest import Manifest

CHECKPOINT = "checkpoint:"


def held_out(
    problems: Iterable[Problem], manifest: Manifest, library: CheckpointLibrary
) -> list[Problem]:
    """Return the problems whose questions neither it nor what it began with was trained on.

    Questions are compared by their words alone, but exactly: those made by one template differ in
    a number or a sign.

    Raises:
        DataError: a file of training data is not there any more, or not as it was.
        CheckpointError: nor is a checkpoint that it began with.
    """
    seen = {_words(question) for question in trained_on(manifest, library)}
    return [each for each in problems if _words(each.question) not in seen]


def trained_on(manifest: Manifest, library: CheckpointLibrary) -> Iterator[str]:
    """Yield every question of the data of all recipes that led to a checkpoint."""
    yield from _questions(manifest.config.get("data") or {})
    began = str(manifest.config.get("model", ""))
    if began.startswith(CHECKPOINT):
        before = library.find(began.removeprefix(CHECKPOINT))
        yield from trained_on(before.manifest, library)


def _questions(data: Mapping[str, Any]) -> Iterator[str]:
    if task := data.get("task"):
        problems = task_named(task, data.get("seed", 0)).problems()
        yield from (problem.question for problem in problems[: data.get("problems")])
    if files := data.get("train"):
        for path in find_files(files):
            yield from read_questions(path)


def _words(question: str) -> str:
    return " ".join(question.split())
