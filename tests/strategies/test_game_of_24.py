"""Tree of Thoughts on the Game of 24, with the exact checker as its oracle: the paper's example."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import pytest

from loadtests.tasks.game24 import Game24, solves
from server.engines.scripted import ScriptedEngine
from strategies.budget import Stage
from strategies.tree_of_thoughts import TreeOfThoughts
from tests.strategies.harness import Bench
from verifiers.base import Verifier
from verifiers.equality import AnswerEquality
from verifiers.types import Candidate, Powers, Prompt, Sampling, Score, Task

STEP = re.compile(r"(\d+) ([+*-]) (\d+) = (\d+) \(left: ([\d ]+)\)")
NUMBERS = [4, 9, 10, 13]


def solvable(terms: Sequence[str], numbers: Sequence[int]) -> bool:
    """Tell whether some expression of sums, differences and products over them is exactly 24."""
    if len(terms) == 1:
        return solves(terms[0], numbers)
    return any(
        solvable([*terms[:i], *terms[i + 1 : j], *terms[j + 1 :], joined], numbers)
        for i, j in combinations(range(len(terms)), 2)
        for a, b in ((terms[i], terms[j]), (terms[j], terms[i]))
        for joined in (f"({a}+{b})", f"({a}-{b})", f"({a}*{b})")
    )


class Oracle(Verifier):
    """Knows exactly whether 24 can still be made of the numbers that are left."""

    type: Literal["oracle"] = "oracle"

    @property
    def partial(self) -> bool:
        return True

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        left = [[int(n) for n in STEP.findall(each.text)[-1][4].split()] for each in candidates]
        return [Score(float(solvable([str(n) for n in some], some))) for some in left]


def steps(prompt: Prompt, _sampling: Sampling, _index: int) -> str:
    """Propose every sum, difference and product as the paper's model does, or write the equation.

    It has no idea of which is good.
    """
    text = str(prompt.messages[-1]["content"])
    taken = STEP.findall(text)
    if "Write the answer by them" in text:
        terms = [str(n) for n in NUMBERS]
        values = list(NUMBERS)
        for a, symbol, b, result, _ in taken:
            first, second = values.index(int(a)), -1
            second = next(i for i, v in enumerate(values) if v == int(b) and i != first)
            terms.append(f"({terms[first]} {symbol} {terms[second]})")
            values.append(int(result))
            for place in sorted((first, second), reverse=True):
                del terms[place], values[place]
        return f"\\boxed{{{terms[0]} = 24}}" if len(terms) == 1 else "I am stuck"
    if "one word: sure" in text:
        return "likely"
    left = [int(n) for n in taken[-1][4].split()] if taken else NUMBERS
    lines = []
    for i, j in combinations(range(len(left)), 2):
        big, small = max(left[i], left[j]), min(left[i], left[j])
        rest = [n for place, n in enumerate(left) if place not in (i, j)]
        made = (("+", big + small), ("-", big - small), ("*", big * small))
        for symbol, result in made:
            after = " ".join(map(str, sorted([*rest, result])))
            lines.append(f"{big} {symbol} {small} = {result} (left: {after})")
    return "\n".join(lines) or "DONE"


async def solved(strategy: TreeOfThoughts) -> tuple[bool, Bench]:
    problem = next(p for p in Game24("1-1362").problems() if p.fields["numbers"] == NUMBERS)
    bench = Bench(
        ScriptedEngine(steps),
        verifier=Oracle(),
        prompt=Prompt(problem.messages),
        sampling=Sampling(2_000),
    )
    outcome = await bench.run(strategy)
    (verdict,) = await Game24().grade(problem, outcome.choices, AnswerEquality())
    return verdict.correct is True, bench


# The 6 pairs of 4 numbers make 18 steps. Only 10 - 4, 10 + 9, 13 - 9 and 13 - 10 can be won from;
# 9 + 4 is the first of the others. Then 3 numbers make 9 steps, or 6 where two are equal (4 4 10
# and 10 13 13), and 2 make 3.
GAMES = [
    ({"search": "bfs", "breadth": 5}, 18 + (9 + 9 + 6 + 9 + 6) + 5 * 3),
    ({"search": "bfs", "breadth": 1}, 18 + 9 + 3),
    ({"search": "dfs"}, 18 + 9 + 3),
]


@pytest.mark.parametrize(("given", "scored"), GAMES)
async def test_with_an_oracle_the_game_is_won(given: dict[str, Any], scored: int) -> None:
    strategy = TreeOfThoughts(evaluate="verifier", proposals=18, thought_tokens=2_000, **given)
    right, bench = await solved(strategy)
    assert right
    assert bench.ledger.usage[Stage.VERIFY].calls == scored
    (answer,) = bench.request.produced.values()
    assert answer.text == "\\boxed{((10 - 4) * (13 - 9)) = 24}"


async def test_without_one_a_model_that_finds_everything_likely_loses() -> None:
    right, _ = await solved(TreeOfThoughts(proposals=18, thought_tokens=2_000, evaluations=1))
    assert not right
