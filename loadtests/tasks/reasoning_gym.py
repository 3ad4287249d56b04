"""Reasoning Gym: problems that are made, as many as wanted (Stojanovski et al., 2505.24760)."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from functools import cached_property
from tokenize import TokenError
from typing import Any, ClassVar

from loadtests.tasks.base import BOXED, Problem, Task, Verdict, conversation
from verifiers.answers import answer_of, extract
from verifiers.types import Candidate, Equivalence, Prompt

_SIZE = 500
_EVALUATES = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
_CALCULATES = frozenset(
    {
        "countdown",
        "intermediate_integration",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
    }
)
"""Data sets of reasoning-gym 0.1.25 whose scorers hand the answer to `eval`, or to sympy's."""
_EXPRESSIONS = frozenset({"countdown", "puzzle24"})
"""An answer is right by its numbers, not by its value: `24` equals each puzzle's solution."""
_FUNCTIONS = frozenset({"sin", "cos", "tan", "asin", "acos", "atan", "exp", "log", "sqrt", "Abs"})
_SYMBOL = re.compile(r"[A-Za-z]|pi")
_BREAKDOWNS = (LookupError, ValueError, TypeError, ArithmeticError, AttributeError)
_SYNTAX = (SyntaxError, TokenError, RecursionError, MemoryError)


class ReasoningGym(Task):
    """A data set of reasoning-gym, drawn with the seed; problem i's id is SEED-i.

    Right is what the library scores 1; leniently also what equals its answer as answers are
    compared everywhere (`x = 5` for `5`). The library draws problem i with seed + i: two seeds are
    independent where they lie further apart than the size.
    """

    name: ClassVar[str] = "reasoning_gym"
    takes: ClassVar[str] = "the data set, then its settings: chain_sum,size=200,min_terms=4"

    def __init__(self, argument: str = "", seed: int = 0) -> None:
        super().__init__(argument, seed)
        self._set, *pairs = argument.split(",")
        self._settings = {"size": _SIZE, **_settings(pairs)}
        self._equality = self._set not in _EXPRESSIONS

    def problems(self) -> Sequence[Problem]:
        """Make all problems."""
        return [
            Problem(
                f"{self.seed}-{index}",
                conversation(entry["question"], BOXED),
                str(entry["answer"]),
            )
            for index, entry in enumerate(self._dataset[i] for i in range(len(self._dataset)))
        ]

    async def grade(
        self, problem: Problem, replies: Sequence[Candidate], equivalence: Equivalence
    ) -> list[Verdict]:
        """Judge by the library. Raises ValueError where it makes another problem now."""
        entry = self._dataset[int(problem.id.rpartition("-")[2])]
        if entry["question"] != problem.question:
            raise ValueError(f"{self.spec} makes another problem {problem.id} than was recorded")
        verdicts = await super().grade(problem, replies, equivalence)
        prompt = Prompt(problem.messages)
        judged = []
        for reply, verdict in zip(replies, verdicts, strict=True):
            strict = answer_of(reply, prompt)
            lenient = strict or extract(reply.text, lenient=True)
            judged.append(
                Verdict(
                    verdict.answer,
                    self._scores(strict, entry),
                    self._scores(lenient, entry) or (self._equality and bool(verdict.lenient)),
                )
            )
        return judged

    def _scores(self, answer: str | None, entry: dict[str, Any]) -> bool:
        if answer is None or not harmless(self._set, answer.strip()):
            return False
        try:
            return bool(self._dataset.score_answer(answer.strip(), entry) >= 1)
        except (*_BREAKDOWNS, *_SYNTAX):  # a scorer that expects a form breaks down without it
            return False

    @cached_property
    def _dataset(self) -> Any:
        try:
            import reasoning_gym
        except ImportError as error:
            raise ValueError("reasoning_gym needs: pip install 'forethought[bench]'") from error
        if self._set not in reasoning_gym.factory.DATASETS:
            known = ", ".join(sorted(reasoning_gym.factory.DATASETS))
            raise ValueError(f"reasoning-gym has no data set {self._set!r}; it has {known}")
        try:
            return reasoning_gym.create_dataset(self._set, seed=self.seed, **self._settings)
        except (TypeError, AssertionError) as error:
            raise ValueError(f"{self.spec}: {error}") from error


def harmless(dataset: str, answer: str) -> bool:
    """Tell whether the library's scorer may see the answer, which it may evaluate."""
    if dataset not in _EVALUATES | _CALCULATES:
        return True
    try:
        tree = ast.parse(answer, mode="eval")
    except (ValueError, *_SYNTAX):
        return dataset in _EVALUATES  # `eval` fails the same way; sympy rewrites it first
    return _literal(tree.body) if dataset in _EVALUATES else _small(answer, tree)


def _literal(node: ast.expr) -> bool:
    if isinstance(node, ast.List | ast.Tuple):
        return all(map(_literal, node.elts))
    return isinstance(node, ast.Constant)


def _small(answer: str, tree: ast.Expression) -> bool:
    """Allow what sympy expands and compares in no time."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - _FUNCTIONS
    return len(answer) <= 200 and len(names) <= 3 and _arithmetic(tree.body)


def _arithmetic(node: ast.expr) -> bool:
    """Allow numbers, variables, their powers, and functions that are not nested; no text."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float)
        case ast.Name(id=name):
            return _SYMBOL.fullmatch(name) is not None
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _arithmetic(operand)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), left=left, right=right):
            return _arithmetic(left) and _arithmetic(right)
        case ast.BinOp(
            op=ast.Pow(), left=ast.Name() | ast.Constant() as base, right=ast.Constant(int(power))
        ):
            return _arithmetic(base) and power <= 30
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            nested = any(isinstance(each, ast.Call) for each in ast.walk(argument))
            return name in _FUNCTIONS and not nested and _arithmetic(argument)
    return False


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        try:
            settings[key] = json.loads(value)
        except ValueError as error:
            raise ValueError(f"reasoning_gym takes {ReasoningGym.takes}, not {pair!r}") from error
        if not equals:
            raise ValueError(f"reasoning_gym takes {ReasoningGym.takes}, not {pair!r}")
    return settings
