"""Symbolic equality: what it finds equal, and that nothing hostile stalls or outlives its limit."""

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from verifiers.answers import canonical
from verifiers.equality import AnswerEquality, cheap_verdict

pytestmark = pytest.mark.slow

EQUAL = [
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("\\sqrt{12}", "2 \\cdot \\sqrt3"),
    ("\\frac{\\pi}{2}", "\\pi/2"),
    ("\\frac{\\pi}{2}", "0.5\\pi"),
    ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"),
    ("(x+1)(x-1)", "x^2-1"),
    ("x + y", "y + x"),
    ("xy", "yx"),
    ("\\frac{x+1}{2}", "0.5x + 0.5"),
    ("x/2", "0.5x"),
    ("2^{10}x", "1024x"),
    ("\\sqrt[3]{8}x", "2x"),
    ("\\sin^2 x + \\cos^2 x", "1"),
    ("\\log_2 8 + x", "3 + x"),
    ("10!", "3628800"),
    ("\\binom{5}{2}", "10"),
    ("3 + 4i", "4i + 3"),
    ("x > 2", "2 < x"),
    ("x \\ge 2", "x >= 2"),
    ("1 < x < 2", "(1, 2)"),
    ("1, 2", "2, 1"),
    ("1 and 2", "\\{2, 1\\}"),
    ("\\{\\frac12, \\sqrt4\\}", "\\{2, 0.5\\}"),
    ("x = 5 or x = -5", "\\pm 5"),
    ("x=1, y=2", "y=2, x=1"),
    ("(\\sqrt{4}, 3]", "(2, 3]"),
    ("(-\\infty, 1) \\cup (2, \\infty)", "(2, \\infty) \\cup (-\\infty, 1)"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2.0 \\end{pmatrix}"),
    ("1,000", "10^3"),
    ("\\frac12", "0.5"),
    ("y = 2x + 1", "2x + 1"),
    ("5\\sqrt{2}\\text{ cm}", "\\sqrt{50}"),
    ("\\frac{3}{\\sqrt3}", "\\sqrt3"),
    ("e^{2x}", "(e^x)^2"),
    ("-\\frac{x}{3}", "\\frac{-x}{3}"),
    ("\\{1,2\\}", "{2,1}"),
]
UNEQUAL = [
    ("1", "2"),
    ("1/3", "0.333333"),
    ("\\pi", "3.14"),
    ("\\pi", "22/7"),
    ("\\pi", "3.141593"),
    ("x^2", "x^3"),
    ("x", "y"),
    ("x + y", "x - y"),
    ("x > 2", "x \\ge 2"),
    ("x > 2", "x < 2"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(1,2]", "[1,2)"),
    ("(1,2)", "\\{1,2\\}"),
    ("(2,1)", "1,2"),
    ("[1,2]", "\\{1,2\\}"),
    ("\\{1,2\\}", "\\{1,2,3\\}"),
    ("1, 2", "1, 3"),
    ("2\\sqrt3", "3\\sqrt2"),
    ("\\sqrt{2}", "1.414"),
    ("A", "B"),
    ("A", "5"),
    ("stop", "pots"),
    ("Paris", "Rome"),
    ("yes", "no"),
    ("12:30", "30:12"),
    ("x=1, y=2", "x=2, y=1"),
    ("3 + 4i", "3 - 4i"),
    ("\\infty", "-\\infty"),
    ("10!", "9!"),
    ("1/0", "0"),
    ('{"a":1}', '{"a":2}'),
    ("5x", "5"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"),
    ("", "0"),
]
HOSTILE = [
    ("9^{9^{9^{9}}}+x", "9^{9^{9}}+x"),
    ("9^{9^{9}}\\cdot\\pi", "9^{9^{10}}\\cdot\\pi"),
    ("50!!!!x", "x"),
    ("10^{10^{10}}x", "x"),
    ("(x+1)^{99999}", "(1+x)^{99999}-x"),
    ("{" * 140 + "x" + "}" * 140, "x+1"),
    ("\\frac{" * 40 + "x" + "}{2}" * 40, "y"),
    ("(" * 149 + "x" + ")" * 149, "x-1"),
    ("\\int_0^1 x^x dx", "\\sum_{n=1}^{\\infty} n^{-n}"),
    ("\\sum_{n=1}^{10^{12}} \\frac{\\sin n}{n}", "\\pi"),
    ("\\boxed{" * 30, "x+y"),
    ("5} \\boxed{7", "7"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def equality() -> AsyncIterator[AnswerEquality]:
    service = AnswerEquality()
    await service.start()
    yield service
    await service.aclose()


def keys(pair: tuple[str, str]) -> tuple[str, str]:
    return canonical(pair[0]), canonical(pair[1])


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("pair", EQUAL)
async def test_equal(equality: AnswerEquality, pair: tuple[str, str]) -> None:
    left, right = keys(pair)
    assert await equality.equal([(left, right), (right, left)]) == [True, True]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("pair", UNEQUAL)
async def test_unequal(equality: AnswerEquality, pair: tuple[str, str]) -> None:
    left, right = keys(pair)
    assert await equality.equal([(left, right), (right, left)]) == [False, False]


async def test_prose_numbers_and_choices_need_no_worker() -> None:
    service = AnswerEquality()
    pairs = [("1", "2"), ("paris", "rome"), ("A", "B"), ("1/2", "1/2"), ('{"a":1}', '{"a":2}')]
    assert await service.equal(pairs) == [False, False, False, True, False]
    assert service._pool[0]._process is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_the_cheap_verdict_is_total_and_symmetric(left: str, right: str) -> None:
    assert cheap_verdict(left, right) == cheap_verdict(right, left)


async def test_hostile_answers_stall_nothing_and_come_back_in_time() -> None:
    service = AnswerEquality(pair_seconds=0.5, call_seconds=8.0)
    await service.start()
    beats: list[float] = []

    async def tick() -> None:
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.01)

    ticker = asyncio.create_task(tick())
    started = time.monotonic()
    verdicts = await service.equal([keys(pair) for pair in HOSTILE])
    elapsed = time.monotonic() - started
    ticker.cancel()
    await service.aclose()
    assert verdicts == [False] * len(HOSTILE)
    assert elapsed < 9
    assert len(beats) > 50 * elapsed / 2
    assert max(after - before for before, after in itertools.pairwise(beats)) < 0.5


async def test_a_worker_that_cannot_interrupt_itself_is_killed_and_replaced() -> None:
    service = AnswerEquality(pair_seconds=0.3)
    assert await service.equal([("x+x", "2x")]) == [True]
    process = service._pool[0]._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)  # as deaf to its alarm as in a long call of C code
    started = time.monotonic()
    assert await service.equal([("y+y", "2y")]) == [False]
    assert time.monotonic() - started < 1.5
    assert process.returncode == -signal.SIGKILL
    assert await service.equal([("y+y", "2y")]) == [True]
    await service.aclose()


async def test_a_worker_killed_from_outside_is_replaced() -> None:
    service = AnswerEquality()
    assert await service.equal([("x+x", "2x")]) == [True]
    process = service._pool[0]._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    await service.equal([("y+y", "2y")])
    assert await service.equal([("y+y", "2y"), ("z+z", "2z")]) == [True, True]
    await service.aclose()


async def test_the_call_limit_leaves_the_rest_unequal() -> None:
    service = AnswerEquality(pair_seconds=0.4, call_seconds=1.5)
    await service.start()
    started = time.monotonic()
    hostile = [(f"9^{{9^{{9^{{9}}}}}}+{n}", "x+x") for n in range(50)]
    assert await service.equal([*hostile, ("x+x", "2x")]) == [False] * 51
    assert time.monotonic() - started < 3
    assert await service.equal([("x+x", "2x")]) == [True]
    await service.aclose()


async def test_a_cancelled_call_does_not_answer_the_next_one() -> None:
    service = AnswerEquality(pair_seconds=2)
    await service.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await service.equal([("9^{9^{9^{9}}}+1", "x+x")])
    assert await service.equal([("x+y", "x-y"), ("x+x", "2x")]) == [False, True]
    await service.aclose()


@pytest.mark.parametrize(("memory_mebibytes", "fits"), [(1_024, True), (128, False)])
async def test_memory_is_limited(memory_mebibytes: int, fits: bool) -> None:
    service = AnswerEquality(memory_mebibytes=memory_mebibytes)
    await service.start()
    assert await service.matches("a$", ["a" * 1_000, "a" * 40_000_000]) == [True, fits]
    assert await service.equal([("x+x", "2x")]) == [True]
    await service.aclose()


async def test_many_requests_share_the_workers() -> None:
    service = AnswerEquality(workers=2)
    async with asyncio.TaskGroup() as group:
        calls = [
            group.create_task(service.equal([(f"{n}x+{n}y", f"{n}(x+y)"), (f"{n}x", f"{n}y")]))
            for n in range(2, 12)
        ]
    assert [call.result() for call in calls] == [[True, False]] * 10
    await service.aclose()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_pattern_that_backtracks_for_ever_does_not_match(equality: AnswerEquality) -> None:
    started = time.monotonic()
    assert await equality.matches("(a+)+$", ["a" * 40 + "b", "aaa"]) == [False, True]
    assert time.monotonic() - started < 6


async def test_importing_it_imports_no_algebra() -> None:
    code = "import sys, verifiers.votes, verifiers.equality; print('sympy' in sys.modules)"
    process = await asyncio.create_subprocess_exec(
        *("python", "-c", code), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output == b"False\n"
