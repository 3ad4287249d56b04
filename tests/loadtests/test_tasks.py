"""Tasks: their problems, what they call right, and what hostile replies can do to them."""

from __future__ import annotations

import inspect
import json
import random
import re
import time
from collections.abc import AsyncIterator, Sequence
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.tasks import reasoning_gym as gym
from loadtests.tasks.base import Problem, Task, Verdict
from loadtests.tasks.discovery import task_classes, task_named
from loadtests.tasks.game24 import plain, solves
from loadtests.visible_examples import visible_examples
from verifiers.equality import AnswerEquality
from verifiers.types import Candidate, FinishReason

SPECS = (
    "gsm8k",
    "math500",
    "game24",
    "human_eval",
    "reasoning_gym:chain_sum,size=20",
    "reasoning_gym:countdown,size=5",
    "reasoning_gym:simple_equations,size=20",
)
HOSTILE = (
    "9**9**9",
    "__import__('os').system('touch owned')",
    "(" * 150 + "1" + ")" * 150,
    "(" * 90 + "1" + ")" * 90,
    "-" * 190 + "1",
    "1/0",
    "24" * 80,
    "1 if 1 else 2",
    "1_0+4",
    "٣*8",
    "6 6 6 6",
    "()",
    "1()",
    "1<<9999999999",
    "\x00",
    "",
    "=",
    "=24",
    "sqrt('__import__(\"os\")')",
)


@pytest.fixture
async def equality() -> AsyncIterator[AnswerEquality]:
    service = AnswerEquality()
    yield service
    await service.aclose()


async def grade(
    task: Task,
    problem: Problem,
    *texts: str,
    equality: AnswerEquality,
    finish: FinishReason = "stop",
) -> list[Verdict]:
    replies = [Candidate(str(i), text, finish_reason=finish) for i, text in enumerate(texts)]
    return await task.grade(problem, replies, equality)


@pytest.mark.parametrize("spec", SPECS)
def test_problems_have_ids_questions_and_references(spec: str) -> None:
    task = task_named(spec, seed=3)
    problems = task.problems()
    assert task.spec == spec
    assert len({problem.id for problem in problems}) == len(problems) > 0
    for problem in problems:
        assert problem.reference
        assert problem.messages[-1]["role"] == "user"
        assert problem.question
        json.dumps(problem.fields)
    assert task_named(spec, seed=3).problems() == problems


def test_every_file_of_the_folder_is_a_task() -> None:
    files = {path.stem for path in Path(inspect.getfile(Task)).parent.glob("*.py")}
    assert set(task_classes()) == files - {"__init__", "base", "discovery"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sudoku", "no task 'sudoku'; there are game24, gsm8k"),
        ("gsm8k:7", "gsm8k takes training"),
        ("math500:7", "takes no argument"),
        ("game24:0-5", "ranks"),
        ("game24:9-5", "ranks"),
        ("game24:1-9999", "ranks"),
        ("jsonl", "jsonl:PATH"),
        ("reasoning_gym:chain_sum,size", "settings"),
        ("reasoning_gym:chain_sum,size=x", "settings"),
    ],
)
def test_what_is_no_task_is_an_error_that_says_so(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_named(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("reasoning_gym:nothing", "no data set 'nothing'; it has"),
        ("reasoning_gym:chain_sum,sizes=3", "sizes"),
        ("reasoning_gym:chain_sum,min_terms=-3", "min_terms"),
    ],
)
def test_what_the_library_refuses_is_an_error_that_says_so(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_named(spec).problems()


@pytest.mark.parametrize(
    "spec",
    [
        "gsm8k",
        "math500",
        *(
            f"reasoning_gym:{name},size=4"
            for name in (
                "chain_sum",
                "countdown",
                "knights_knaves",
                "mini_sudoku",
                "n_queens",
                "polynomial_multiplication",
                "prime_factorization",
                "simple_integration",
                "zebra_puzzles",
            )
        ),
    ],
)
async def test_the_reference_is_right_and_another_one_is_not(
    spec: str, equality: AnswerEquality
) -> None:
    task = task_named(spec, seed=1)
    for problem in task.problems():
        right, wrong = await grade(
            task,
            problem,
            f"So it is \\boxed{{{problem.reference}}}.",
            "So it is \\boxed{-987654321}.",
            equality=equality,
        )
        assert right.correct, problem
        assert right.lenient, problem
        assert right.answer
        assert not wrong.correct, problem
        assert not wrong.lenient, problem


async def test_abstaining_is_wrong_and_lenient_takes_the_last_number(
    equality: AnswerEquality,
) -> None:
    task = task_named("gsm8k")
    problem = task.problems()[0]
    talk = f"We add all of it up in several steps, and so we come to {problem.reference} gallons."
    (strict,) = await grade(task, problem, talk, equality=equality)
    assert strict == Verdict(None, False, True)
    (cut,) = await grade(task, problem, "It is \\boxed{30", equality=equality, finish="length")
    assert cut == Verdict(None, False, False)


def target_of(problem: Problem) -> str:
    found = re.search(r"(?:get|to|result in|equals?|target)[^0-9]*([0-9]+)", problem.question)
    assert found, problem.question
    return found[1]


async def test_other_right_answers_count_where_the_library_says_so(
    equality: AnswerEquality,
) -> None:
    task = task_named("reasoning_gym:countdown,size=3")
    problem = task.problems()[0]
    (turned,) = await grade(task, problem, f"\\boxed{{0+({problem.reference})}}", equality=equality)
    assert not turned.correct, "a number too many"
    (same,) = await grade(task, problem, f"\\boxed{{(({problem.reference}))}}", equality=equality)
    assert same.correct
    (target,) = await grade(task, problem, f"\\boxed{{{target_of(problem)}}}", equality=equality)
    assert not target.lenient, "its value is no solution"


async def test_notation_that_the_library_does_not_know_is_leniently_right(
    equality: AnswerEquality,
) -> None:
    task = task_named("reasoning_gym:chain_sum,size=1")
    problem = task.problems()[0]
    text = f"\\boxed{{x = {problem.reference}}}"
    (verdict,) = await grade(task, problem, text, equality=equality)
    assert verdict == Verdict(problem.reference, False, True)


@pytest.mark.parametrize("name", ["countdown", "n_queens", "simple_integration", "puzzle24"])
async def test_hostile_answers_are_wrong_and_harmless(
    name: str, equality: AnswerEquality, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = task_named(f"reasoning_gym:{name},size=1")
    problem = task.problems()[0]
    start = time.monotonic()
    texts = [f"\\boxed{{{answer}}}" for answer in HOSTILE]
    verdicts = await grade(task, problem, *texts, equality=equality)
    assert not any(verdict.correct for verdict in verdicts)
    assert time.monotonic() - start < 60
    assert not list(tmp_path.iterdir())


def test_every_scorer_that_evaluates_is_known() -> None:
    import reasoning_gym as library

    evaluating = re.compile(r"\beval\(|parse_expr\(|sympify\(|\bexec\(")
    found = {
        name
        for name, (cls, _) in library.factory.DATASETS.items()
        if evaluating.search(inspect.getsource(cls.score_answer))
        # It evaluates its own answer only.
        and name != "number_sorting"
    }
    assert found == gym._EVALUATES | gym._CALCULATES


def test_a_problem_that_the_library_makes_otherwise_is_not_judged() -> None:
    task = task_named("reasoning_gym:chain_sum,size=3")
    other = task_named("reasoning_gym:chain_sum,size=3", seed=50).problems()[0]
    with pytest.raises(ValueError, match="makes another problem 50-0"):
        task.grade(other, [], AnswerEquality()).send(None)


async def test_code_is_judged_by_the_hidden_tests(equality: AnswerEquality) -> None:
    task = task_named("human_eval")
    problem = task.problems()[0]
    assert problem.fields["entry_point"] in problem.question
    right = f"```python\n{problem.fields['prompt']}{problem.reference}```"
    by_heart = "```python\ndef has_close_elements(numbers, threshold):\n    return True\n```"
    texts = (right, by_heart, "```python\nimport os\nos._exit(0)\n```", "I cannot.")
    verdicts = await grade(task, problem, *texts, equality=equality)
    assert [each.correct for each in verdicts] == [True, False, False, False]


def test_visible_examples_are_those_of_the_prompt() -> None:
    prompt = '''
def double(number):
    """Double a number.
    >>> double(2)
    4
    double(3) == 6
    double(-1) ➞ -2.
    For double(x) it is twice as much; double("a") => "aa"   # as Python does
    double(9) returns what you think
    """
'''
    assert visible_examples(prompt, "double") == [
        "assert (double(2)) == (4)",
        "assert (double(3)) == (6)",
        "assert (double(-1)) == (-2)",
    ]


Tree = int | tuple["Tree", str, "Tree"]


def trees(numbers: Sequence[int], rng: random.Random) -> Tree:
    if len(numbers) == 1:
        return numbers[0]
    cut = rng.randint(1, len(numbers) - 1)
    return trees(numbers[:cut], rng), rng.choice("+-*/"), trees(numbers[cut:], rng)


def value(tree: Tree) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    left, symbol, right = value(tree[0]), tree[1], value(tree[2])
    match symbol:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    return left / right


def written(tree: Tree, rng: random.Random) -> str:
    if isinstance(tree, int):
        return str(tree)
    left, symbol, right = written(tree[0], rng), tree[1], written(tree[2], rng)
    if symbol == "/" and "{" not in left + right and rng.random() < 0.5:
        return f"\\frac{{{left}}}{{{right}}}"
    symbols = {"*": ("*", "×", "\\times ", "\\cdot "), "/": ("/", "÷", "\\div "), "-": "-−"}
    space = rng.choice(("", " "))
    brackets = rng.choice(("()", ("\\left(", "\\right)")))
    sign = rng.choice(symbols.get(symbol, symbol))
    return f"{brackets[0]}{left}{space}{sign}{space}{right}{brackets[1]}"


@given(st.lists(st.integers(1, 13), min_size=4, max_size=4), st.randoms(use_true_random=False))
def test_game24_is_calculated_exactly(numbers: list[int], rng: random.Random) -> None:
    tree = trees(numbers, rng)
    text = written(tree, rng)
    try:
        right = value(tree) == 24
    except ZeroDivisionError:
        right = False
    shuffled = sorted(numbers)
    assert solves(text, shuffled) == right
    assert solves(f"{text} = 24", shuffled) == right
    assert not solves(f"{text} = 23", shuffled)
    assert not solves(text, [*numbers, 1])
    assert not solves(text, [*numbers[1:], numbers[0] + 1])


def solution(numbers: Sequence[int], rng: random.Random) -> str:
    """Draw trees until one makes 24."""
    while True:
        tree = trees(rng.sample(numbers, 4), rng)
        try:
            if value(tree) == 24:
                return written(tree, rng)
        except ZeroDivisionError:
            continue


async def test_game24_puzzles_are_solved_by_their_solutions(equality: AnswerEquality) -> None:
    rng, task = random.Random(0), task_named("game24")
    problems = task.problems()
    assert [problem.id for problem in problems] == [str(rank) for rank in range(901, 1001)]
    for problem in problems[:10]:
        equation = f"{solution(problem.fields['numbers'], rng)} = 24"
        boxed, bare, wrong, goal = await grade(
            task,
            problem,
            f"Let us see.\n\\boxed{{{equation}}}",
            f"Let us think about all of this for a while.\nSo: {equation}",
            "\\boxed{24 = 24}",
            "\\boxed{24}",
            equality=equality,
        )
        assert boxed == Verdict(plain(equation).removesuffix("=24"), True, True)
        assert not bare.correct
        assert bare.lenient
        assert not wrong.correct
        assert not goal.correct


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("(10 - 4) * (5 - 6 + 5)", False),
        ("(10-6)*(5+4)-12", False),
        ("4 * 6 * (10 / 5 - 1)", False),
        ("4 * 6 / (10 / 5) ", False),
        ("(5 * 10 - 4) - 6", False),
        ("(10 - 5) * 6 - 4 = 26", False),
        ("$(5 \\times 10 + 6 - 4) = 52 = 24$", False),
        ("5 * 4 + 10 - 6 = 24", True),
        ("5 * 4 + 10 - 6 = 20 + 4 = 24", True),
        ("$5 \\times 4 + (10 - 6) = 24$", True),
        ("\\left(5 \\cdot 4\\right) + 10 − 6", True),
        ("24 = 5*4+10-6", False),
        ("5*4 + 10 - 06", False),
        ("5*4+10-6.0", False),
        ("5*4+10-6#", False),
        ("-(6-10) + 5*4", True),
    ],
)
def test_game24_equations(answer: str, right: bool) -> None:
    assert solves(answer, [4, 5, 6, 10]) is right


@pytest.mark.parametrize("answer", HOSTILE)
def test_game24_survives_hostile_answers(answer: str) -> None:
    start = time.monotonic()
    assert not solves(answer, [4, 5, 6, 10])
    assert time.monotonic() - start < 1


@given(st.text(max_size=250) | st.text("0123456789+-*/()=. \\{}frac", max_size=250))
def test_game24_reads_any_text(answer: str) -> None:
    assert solves(answer, [4, 5, 6, 10]) in (True, False)


def test_jsonl_rows(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    turns = [{"role": "user", "content": "Two and two?"}]
    rows = [
        {"prompt": "One and one?", "reference": "2", "system": "Be short."},
        {"messages": turns, "reference": "4", "id": "sum"},
    ]
    file.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    first, second = task_named(f"jsonl:{file}").problems()
    assert (first.id, first.question, first.reference) == ("1", "One and one?", "2")
    assert first.messages[0] == {"role": "system", "content": "Be short."}
    assert second == Problem("sum", tuple(turns), "4")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Invalid JSON"),
        ("[]", "valid dictionary|object"),
        ('{"prompt": "x"}', "reference"),
        ('{"prompt": "x", "reference": ""}', "reference"),
        ('{"prompt": "x", "reference": 4}', "reference"),
        ('{"reference": "4"}', "one of"),
        ('{"prompt": "x", "messages": [{}], "reference": "4"}', "one of"),
        ('{"messages": [{}], "system": "s", "reference": "4"}', "system"),
        ('{"prompt": "x", "reference": "4", "answers": 1}', "answers"),
        ('{"prompt": "y", "reference": "2", "id": "1"}', "second problem '1'"),
    ],
)
def test_a_bad_row_names_its_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(f'{{"prompt": "One and one?", "reference": "2"}}\n{line}\n')
    with pytest.raises(ValueError, match=rf"mine\.jsonl, line 2: .*({reason})"):
        task_named(f"jsonl:{file}").problems()


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="no problem"):
        task_named(f"jsonl:{tmp_path / 'mine.jsonl'}").problems()
