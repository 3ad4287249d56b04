"""What is asked live: sets of strategies that are compared with each other on the same problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtests.tasks.base import Problem
from verifiers.types import JSONObject

SEARCH_BUDGET = {"max_tokens": 2_000, "max_calls": 512, "deadline_s": 300}
AMPLE = {"max_tokens": 16_384, "max_calls": 512, "deadline_s": 600}


@dataclass(frozen=True, slots=True)
class Asked:
    """A strategy of a set, and the verifier that a problem gives it."""

    strategy: JSONObject
    verifier: Callable[[Problem], JSONObject] | None = None
    problems: int | None = None
    """How many of the set's problems it is asked; None: all."""


@dataclass(frozen=True, slots=True)
class LiveSet:
    """Strategies by name, the first is what the others are compared with; and their problems."""

    strategies: Mapping[str, Asked]
    budget: Mapping[str, Any] = field(default_factory=lambda: AMPLE)
    task: str = "gsm8k"
    cap: int = 320
    """Tokens of a reply."""
    every: int = 1
    """Every so many problems of the task, from the first on."""
    problems: int = 20
    together: int = 1
    """Questions at a time; above 1, seconds and the engine's count say nothing and are left out."""


def visible_examples(problem: Problem) -> JSONObject:
    """Let what the question itself shows be the tests; where that is nothing, that code loads."""
    name = problem.fields["entry_point"]
    tests = list(problem.fields["examples"]) or [name]
    prelude = problem.fields["prompt"]
    return {"name": "python_tests", "tests": tests, "prelude": prelude, "entry_point": name}


SETS: Mapping[str, LiveSet] = {
    "search": LiveSet(
        {
            "best_of_n, n = 7": Asked({"type": "best_of_n", "n": 7}),
            "beam, n = 8": Asked({"type": "beam", "n": 8}),
            "dvts, n = 8": Asked({"type": "dvts", "n": 8}),
            "rebase, n = 8": Asked({"type": "rebase", "n": 8}),
            "mcts": Asked({"type": "mcts"}),
        },
        SEARCH_BUDGET,
    ),
    "stopping": LiveSet(
        {
            "self_consistency, n = 16": Asked({"type": "self_consistency", "n": 16}),
            "adaptive_consistency, n = 16, all at once": Asked(
                {"type": "adaptive_consistency", "n": 16, "wave": 16}
            ),
            "adaptive_consistency, n = 16": Asked(
                {"type": "adaptive_consistency", "n": 16}, problems=5
            ),
            "deep_confidence, n = 16": Asked(
                {"type": "deep_confidence", "n": 16, "warm_up": 4, "window": 64}
            ),
            "auto, n = 16": Asked({"type": "auto", "n": 16}, problems=10),
        }
    ),
    "tests": LiveSet(
        {
            "single": Asked({"type": "single"}),
            "best_of_n, n = 8, by the visible examples": Asked(
                {"type": "best_of_n", "n": 8}, visible_examples
            ),
        },
        task="human_eval",
        cap=512,
        every=2,
        problems=82,
        together=4,
    ),
}
