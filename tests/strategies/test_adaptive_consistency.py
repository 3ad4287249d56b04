"""Adaptive consistency: where it stops, by integration and by hand."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.adaptive_consistency import AdaptiveConsistency, lead
from strategies.budget import Budget
from tests.strategies.harness import Bench
from verifiers.errors import EngineError
from verifiers.types import Sampling

ABSTENTION = "so many words that nobody could take the whole of this reply for an answer"
LONG = "hm " * 40 + "\\boxed{2}"


def drawing(answers: str) -> ScriptedEngine:
    """Make an engine whose samples answer these digits, one after the other; x abstains."""
    texts = iter([ABSTENTION if each == "x" else f"\\boxed{{{each}}}" for each in answers])
    return ScriptedEngine(lambda *_: next(texts))


def seeded(max_tokens: int = 64) -> Sampling:
    return Sampling(max_tokens, seed=3, logprobs=0)


def integral(first: int, second: int, low: Fraction) -> Fraction:
    """Integrate x^first (1 - x)^second from `low` to 1, term by term."""
    return sum(
        (
            (-1) ** k * comb(second, k) * (1 - low ** (first + k + 1)) / (first + k + 1)
            for k in range(second + 1)
        ),
        Fraction(0),
    )


@pytest.mark.parametrize("first", range(12))
@pytest.mark.parametrize("second", range(12))
def test_the_tail_is_the_integral(first: int, second: int) -> None:
    whole = integral(first, second, Fraction(0))
    assert lead(first, second) == float(integral(first, second, Fraction(1, 2)) / whole)


@pytest.mark.parametrize(
    ("answers", "confidence", "stops"),
    [
        ("1111111", 0.95, 4),  # 3-0: 15/16, 4-0: 31/32
        ("1111", 0.95, 4),  # certain at the end: nothing was saved
        ("2111111111", 0.95, 7),  # 5-1: 120/128, 6-1: 247/256
        ("22111111111111", 0.95, 10),  # 7-2: 968/1024, 8-2: 1981/2048
        ("2311111111", 0.95, 8),  # the third answer does not count: 5-1, then 6-1
        ("11111", 0.8, 3),  # 2-0 is 7/8, but nothing stops before three answers
        ("21111", 0.8, 4),  # 2-1: 11/16, 3-1: 26/32
        ("22111111", 0.8, 7),  # 4-2: 99/128, 5-2: 219/256
        ("xx1111111", 0.95, 6),  # abstentions count for nobody
        ("x1111", 0.8, 4),
        ("xxxxxxxxxxxx", 0.8, 12),
    ],
)
async def test_it_stops_where_the_leader_is_certain(
    answers: str, confidence: float, stops: int
) -> None:
    bench = Bench(drawing(answers), sampling=seeded())
    strategy = AdaptiveConsistency(n=len(answers), confidence=confidence, wave=1)
    outcome = await bench.run(strategy)
    assert bench.ledger.total.calls == len(outcome.candidates) == stops
    assert outcome.stopped_by == ("decided" if stops < len(answers) else None)
    assert outcome.answer == (None if set(answers) == {"x"} else "1")


async def test_a_seeded_wave_counts_as_a_whole() -> None:
    # 4-1 (57/64) does not decide, though its first four would have; 7-3 (1816/2048) neither;
    # 12-3 (63019/65536) does.
    bench = Bench(drawing("111122111311111" + "1" * 5), sampling=seeded())
    outcome = await bench.run(AdaptiveConsistency(n=20, wave=5))
    assert (len(outcome.candidates), outcome.agreement) == (15, 12 / 15)
    assert outcome.stopped_by == "decided"


async def test_stragglers_are_stopped_once_the_others_decide() -> None:
    texts = iter([LONG, *["\\boxed{1}"] * 4, LONG])
    engine = ScriptedEngine(lambda *_: next(texts))
    bench = Bench(engine)
    outcome = await bench.run(AdaptiveConsistency(n=6, wave=6))
    assert (outcome.answer, outcome.agreement, outcome.stopped_by) == ("1", 1.0, "decided")
    assert (engine.log["finished"], engine.log["aborted"], engine.running) == (4, 2, 0)
    assert 4 < engine.log["tokens"] < 4 + 2 * 41
    assert bench.ledger.total.completion_tokens == engine.log["tokens"]
    assert bench.ledger.total.exact
    assert bench.at_rest()


async def test_with_a_seed_nobody_is_stopped() -> None:
    texts = iter([LONG, *["\\boxed{1}"] * 4, LONG])
    engine = ScriptedEngine(lambda *_: next(texts))
    outcome = await Bench(engine, sampling=seeded()).run(AdaptiveConsistency(n=6, wave=6))
    assert (outcome.answer, outcome.agreement, outcome.stopped_by) == ("1", 4 / 6, None)
    assert (engine.log["aborted"], engine.log["tokens"]) == (0, 4 + 2 * 41)


async def test_a_spent_budget_votes() -> None:
    bench = Bench(drawing("21211121"), Budget(100_000, 6, 60.0), sampling=seeded())
    outcome = await bench.run(AdaptiveConsistency(n=8, wave=3))
    assert (outcome.answer, outcome.agreement, outcome.stopped_by) == ("1", 4 / 6, "calls")
    assert outcome.choices[0].text == "\\boxed{1}"


@pytest.mark.parametrize("n", [3, 8])
async def test_tokens_cut_a_wave(n: int) -> None:
    bench = Bench(drawing("1" * n), Budget(2, 100, 60.0))
    outcome = await bench.run(AdaptiveConsistency(n=n))
    assert (outcome.answer, outcome.agreement, outcome.stopped_by) == ("1", 1.0, "tokens")
    assert (len(outcome.candidates), outcome.abstentions) == (2, 0)


async def test_a_client_gets_as_many_answers_as_it_wants() -> None:
    bench = Bench(drawing("1" * 40), n=10)
    outcome = await bench.run(AdaptiveConsistency())
    assert len(outcome.choices) == 10
    assert outcome.stopped_by == "decided"
    assert len(outcome.candidates) == 12
    assert not bench.session.spent


async def test_an_engine_that_is_down_is_an_error() -> None:
    bench = Bench(ScriptedEngine(fail=lambda *_: EngineError("down")))
    with pytest.raises(EngineError, match="down"):
        await bench.run(AdaptiveConsistency())
    assert bench.at_rest()


async def test_the_prompt_is_counted() -> None:
    bench = Bench(drawing("1111"))
    await bench.run(AdaptiveConsistency())
    assert bench.request.prompt_tokens == 5  # What is 6 times 7?
