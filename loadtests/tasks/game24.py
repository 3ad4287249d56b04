r"""Game of 24: make 24 of four numbers (Yao et al., Tree of Thoughts, 2305.10601)."""

from __future__ import annotations

import ast
import csv
import gzip
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import ClassVar

from loadtests.tasks.base import DATA, Problem, Task, Verdict, conversation
from verifiers.answers import answer_of
from verifiers.types import Candidate, Equivalence, Prompt

_SYSTEM = (
    "Use each of the four numbers exactly once, with + - * / and parentheses, to make 24. "
    "Think step by step. Finish with the equation in \\boxed{}, such as "
    "\\boxed{(1 + 2 + 3) * 4 = 24}."
)
_USUAL = range(901, 1_001)
"""The ranks that papers report."""
_LONGEST = 200
_GOAL = Fraction(24)
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_NOTATION = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|×|·|∗"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|÷"), "/"),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"\\(?:left|right)(?![A-Za-z])|\\[,;! ]|[$\s]"), ""),
)
_PLAIN = re.compile(r"[0-9+\-*/()]+")


class Game24(Task):
    """Puzzles by their rank, easiest first, which is their id: 901 to 1000 as in the papers.

    Any equation is right that uses every number exactly once and is exactly 24: the reference is
    only the goal. Leniently, a last line that is such an equation counts where nothing is marked.
    """

    name: ClassVar[str] = "game24"
    takes: ClassVar[str] = "ranks FIRST-LAST of 1-1362, by default 901-1000"

    def __init__(self, argument: str = "", seed: int = 0) -> None:
        super().__init__(argument, seed)
        self._ranks = _ranks(argument) if argument else _USUAL

    def problems(self) -> Sequence[Problem]:
        """Return the puzzles of the chosen ranks."""
        with gzip.open(DATA / "game24.csv.gz", "rt", encoding="utf-8") as lines:
            rows = [row for row in csv.DictReader(lines) if int(row["Rank"]) in self._ranks]
        return [
            Problem(
                row["Rank"],
                conversation(f"Numbers: {row['Puzzles']}", _SYSTEM),
                str(_GOAL),
                {"numbers": [int(number) for number in row["Puzzles"].split()]},
            )
            for row in rows
        ]

    async def grade(
        self,
        problem: Problem,
        replies: Sequence[Candidate],
        equivalence: Equivalence,  # noqa: ARG002
    ) -> list[Verdict]:
        """Calculate each equation exactly; the answer is its expression without spaces."""
        numbers, prompt = problem.fields["numbers"], Prompt(problem.messages)
        verdicts = []
        for reply in replies:
            answer = answer_of(reply, prompt)
            last = reply.text.strip().rpartition("\n")[2]
            verdicts.append(
                Verdict(
                    plain(answer).partition("=")[0] or None if answer else None,
                    answer is not None and solves(answer, numbers),
                    solves(answer or last.rpartition(":")[2], numbers),
                )
            )
        return verdicts


def solves(answer: str, numbers: Sequence[int]) -> bool:
    """Tell whether an expression, or an equation with 24, uses each number once and makes 24."""
    expression, *sides = plain(answer).split("=")
    used: Counter[int] = Counter()
    try:
        results = [_value(expression, used), *(_value(side, Counter()) for side in sides)]
    except (ValueError, ZeroDivisionError):
        return False
    return used == Counter(numbers) and all(result == _GOAL for result in results)


def plain(answer: str) -> str:
    """Write LaTeX and typographic arithmetic with `+ - * / ( )`, without spaces."""
    if len(answer) > _LONGEST:
        return ""
    for pattern, replacement in _NOTATION:
        answer = pattern.sub(replacement, answer)
    return answer


def _value(expression: str, used: Counter[int]) -> Fraction:
    """Calculate an expression, and count its numbers. Raises ValueError, ZeroDivisionError."""
    if len(expression) > _LONGEST or not _PLAIN.fullmatch(expression):
        raise ValueError("not an expression")
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, MemoryError) as error:  # MemoryError: the parser's word for too deep
        raise ValueError("not an expression") from error
    return _calculate(tree.body, used)


def _calculate(node: ast.expr, used: Counter[int]) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            used[number] += 1
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_calculate(operand, used)
        case ast.BinOp(left=left, op=symbol, right=right) if type(symbol) in _OPERATIONS:
            return _OPERATIONS[type(symbol)](_calculate(left, used), _calculate(right, used))
    raise ValueError("more than + - * / and whole numbers")


def _ranks(argument: str) -> range:
    found = re.fullmatch(r"([0-9]{1,4})-([0-9]{1,4})", argument)
    ranks = range(int(found[1]), int(found[2]) + 1) if found else range(0)
    if not ranks or ranks[0] < 1 or ranks[-1] > 1_362:
        raise ValueError(f"game24 takes {Game24.takes}, not {argument!r}")
    return ranks
