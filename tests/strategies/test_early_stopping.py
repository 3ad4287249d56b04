"""Early stopping: windows, worked out by hand."""

from __future__ import annotations

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.budget import Budget
from strategies.early_stopping import EarlyStopping
from tests.strategies.harness import Bench
from verifiers.errors import EngineError

ABSTENTION = "so many words that nobody could take the whole of this reply for an answer"
ANSWERS = {"x": ABSTENTION, "h": "\\boxed{\\frac{1}{2}}", "d": "\\boxed{0.5}"}


def drawing(answers: str) -> ScriptedEngine:
    """Make an engine whose samples answer so, one after the other; x abstains, h and d are ½."""
    texts = iter([ANSWERS.get(each, f"\\boxed{{{each}}}") for each in answers])
    return ScriptedEngine(lambda *_: next(texts))


@pytest.mark.parametrize(
    ("answers", "drawn", "stopped_by", "answer"),
    [
        ("111222222", 3, "decided", "1"),  # the first window agrees
        ("121111222", 6, "decided", "1"),  # the second does
        ("112221112", 9, None, "1"),  # four equal answers across windows are not one window: 5-4
        ("11x111222", 6, "decided", "1"),  # an abstention breaks the first window
        ("xxx333111", 6, "decided", "3"),  # nor does agreement in having no answer count
        ("221221333111", 9, "decided", "2"),  # earlier windows vote: 2 has 4, 3 has 3, 1 has 2
        ("hdh111111", 3, "decided", "\\frac{1}{2}"),  # equal is what means the same
        ("123123111", 9, None, "1"),  # unanimous at the end: nothing was saved
    ],
)
async def test_it_stops_after_the_first_unanimous_window(
    answers: str, drawn: int, stopped_by: str | None, answer: str
) -> None:
    bench = Bench(drawing(answers))
    outcome = await bench.run(EarlyStopping(n=len(answers), window=3))
    assert (len(outcome.candidates), outcome.stopped_by) == (drawn, stopped_by)
    assert outcome.answer == answer
    assert bench.ledger.total.calls == drawn


async def test_the_published_windows_are_of_five() -> None:
    outcome = await Bench(drawing("11112" * 7 + "11111")).run(EarlyStopping())
    assert (len(outcome.candidates), outcome.stopped_by) == (40, None)
    outcome = await Bench(drawing("11112" + "11111" + "1" * 30)).run(EarlyStopping())
    assert (len(outcome.candidates), outcome.stopped_by) == (10, "decided")


async def test_a_window_cut_by_the_budget_is_not_unanimous() -> None:
    bench = Bench(drawing("121111"), Budget(100_000, 5, 60.0))
    outcome = await bench.run(EarlyStopping(n=9, window=3))
    assert (len(outcome.candidates), outcome.stopped_by) == (5, "calls")
    assert (outcome.answer, outcome.agreement) == ("1", 4 / 5)


async def test_a_budget_that_ends_with_a_window_votes() -> None:
    bench = Bench(drawing("122123"), Budget(100_000, 6, 60.0))
    outcome = await bench.run(EarlyStopping(n=9, window=3))
    assert (outcome.answer, outcome.agreement, outcome.stopped_by) == ("2", 3 / 6, "calls")
    assert outcome.choices[0].text == "\\boxed{2}"


async def test_a_window_with_a_lost_sample_is_not_unanimous() -> None:
    errors = iter([EngineError("lost"), *[None] * 20])
    engine = drawing("1" * 9)
    engine.fail = lambda _prompt, _index: next(errors)
    outcome = await Bench(engine).run(EarlyStopping(n=9, window=3))
    assert (len(outcome.candidates), outcome.stopped_by) == (5, "decided")


async def test_a_client_gets_as_many_answers_as_it_wants() -> None:
    outcome = await Bench(drawing("1" * 9), n=4).run(EarlyStopping(n=9, window=3))
    assert (len(outcome.choices), len(outcome.candidates)) == (4, 6)
