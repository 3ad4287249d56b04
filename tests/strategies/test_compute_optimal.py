"""Compute-optimal scaling with a table made by hand: bins, choices, widths, probes, costs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from server.engines.scripted import ScriptedEngine
from strategies.allocation import Table, affordable_width, features, shipped_tables
from strategies.base import strategy_classes
from strategies.budget import Budget
from strategies.compute_optimal import ComputeOptimal
from strategies.events import EventKind
from strategies.inner import sampler
from tests.strategies.harness import Bench
from tests.strategies.test_cascade import Deck
from verifiers.errors import BadRequest
from verifiers.types import Sampling

CONFIDENCE = {"type": "confidence_vote", "n": 8}
ADAPTIVE = {"type": "adaptive_consistency", "n": 12, "confidence": 0.85}
WIDE = {"type": "self_consistency", "n": 10}

TABLE = Table.model_validate(
    {
        "provenance": {},
        "probes": 4,
        "intercept": 0.5,
        "features": {"agreement": {"weight": -1.0, "mean": 0.5}},
        "thresholds": [0.2, 0.6],
        "rows": [
            {"max_tokens": 1_000, "choices": [[], [], [WIDE]]},
            {"max_tokens": 10_000, "choices": [[], [CONFIDENCE, WIDE], [ADAPTIVE]]},
        ],
    }
)
"""Difficulty is 1 minus the agreement: 4 of 4 is bin 0, 2 and 3 of 4 are bin 1, 1 of 4 is bin 2."""


def bench(engine: ScriptedEngine, tokens: int = 20_000, **more: Any) -> Bench:
    made = Bench(engine, Budget(tokens, 1_000, 60.0), **more)
    made.request.service = replace(made.request.service, tables={"gsm8k": TABLE})
    return made


@pytest.mark.parametrize(("agreement", "place"), [(1.0, 0), (0.75, 1), (0.5, 1), (0.25, 2), (0, 2)])
def test_bins_by_hand(agreement: float, place: int) -> None:
    assert TABLE.difficulty({"agreement": agreement}) == 1 - agreement
    assert TABLE.bin({"agreement": agreement}) == place


def test_a_feature_that_is_missing_is_average() -> None:
    assert TABLE.difficulty({}) == 0.5


@pytest.mark.parametrize(
    ("tokens", "row"), [(16, 0), (1_000, 0), (9_999, 0), (10_000, 1), (1 << 30, 1)]
)
def test_the_row_is_the_largest_that_the_budget_covers(tokens: int, row: int) -> None:
    assert TABLE.choices(2, tokens) == TABLE.rows[row].choices[2]


def test_features_of_probes_by_hand() -> None:
    found = features(3, 4, [-1.0, -2.0, -math.inf, -1.0], [10, 20, 30, 40])
    assert found == pytest.approx(
        {
            "agreement": 0.75,
            "abstentions": 0.0,
            "length": math.log(25),
            "confidence": (2 * math.exp(-1) + math.exp(-2)) / 3,
        }
    )
    assert "confidence" not in features(0, 0, [-math.inf], [0])


@pytest.mark.parametrize(("left", "width"), [(0, 4), (24, 4), (25, 5), (120, 8)])
def test_the_affordable_width_is_by_the_mean_length_of_the_probes(left: int, width: int) -> None:
    assert affordable_width([10, 20, 30, 40], left) == width


async def test_an_easy_question_costs_the_probes_alone() -> None:
    engine = Deck("7777")
    made = bench(engine)
    outcome = await made.run(ComputeOptimal())
    assert (outcome.answer, outcome.agreement, outcome.stopped_by) == ("7", 1.0, "decided")
    assert made.ledger.total.calls == made.ledger.total.completion_tokens == 4
    assert made.at_rest()


async def test_a_harder_one_gets_more_and_the_probes_are_its_first_samples() -> None:
    engine = Deck("7718" + "8888")
    made = bench(engine)
    outcome = await made.run(ComputeOptimal())
    assert outcome.answer == "8"
    assert len(outcome.candidates) == made.ledger.total.calls == 8
    assert made.ledger.total.completion_tokens == engine.log["tokens"] == 8
    assert outcome.stopped_by is None
    [chosen] = [each.data for each in made.events.events if each.kind is EventKind.CHOSEN]
    assert chosen == {"strategy": {"type": "confidence_vote"}, "bin": 1}


async def test_the_hardest_adapts_from_the_probes_on() -> None:
    engine = Deck("1234" + "4444" + "5" * 9)
    made = bench(engine, sampling=Sampling(64, seed=3, logprobs=0))
    outcome = await made.run(ComputeOptimal())
    # 5 against 1: P(θ > ½) for Beta(6, 2) is 120/128 = .94, before it 1 against 1: ½
    assert (outcome.answer, outcome.stopped_by) == ("4", "decided")
    assert len(engine.prompts) == 8


async def test_the_budget_picks_the_row() -> None:
    assert (await bench(Deck("7718"), 9_999).run(ComputeOptimal())).stopped_by == "decided"
    engine = Deck("1234" + "4" * 6)
    await bench(engine, 9_999).run(ComputeOptimal())
    assert len(engine.prompts) == 10


async def test_the_budget_sets_the_width() -> None:
    engine = Deck("1234" + "4" * 6, words=20)
    made = bench(engine, 150)
    outcome = await made.run(ComputeOptimal())
    # probes of 20 tokens leave 70: three more
    assert len(outcome.candidates) == len(engine.prompts) == 7
    assert all(each.done for each in outcome.candidates)
    assert made.ledger.total.completion_tokens == 140


async def test_where_no_more_can_be_paid_the_probes_vote() -> None:
    made = bench(Deck("1234", words=20), 99)
    outcome = await made.run(ComputeOptimal())
    assert (outcome.agreement, outcome.stopped_by) == (0.25, None)
    assert made.ledger.total.completion_tokens == 80


async def test_the_client_sets_the_most_samples() -> None:
    engine = Deck("1234" + "4")
    await bench(engine).run(ComputeOptimal(n=5))
    assert len(engine.prompts) == 5
    engine = Deck("12")
    await bench(engine).run(ComputeOptimal(n=2))
    assert len(engine.prompts) == 2


async def test_fewer_probes_where_the_client_wants_so() -> None:
    engine = Deck("77")
    await bench(engine).run(ComputeOptimal(probes=2))
    assert len(engine.prompts) == 2


async def test_a_client_that_wants_more_answers_gets_them() -> None:
    made = bench(Deck("777777"), n=6)
    outcome = await made.run(ComputeOptimal())
    assert len(outcome.choices) == 6
    assert ComputeOptimal().choices(99) == 16


async def test_what_the_engine_cannot_do_is_not_chosen() -> None:
    deaf = replace(ScriptedEngine().capabilities, logprobs=None)
    engine = Deck("7718" + "888777", capabilities=deaf)
    made = bench(engine, sampling=Sampling(64))
    outcome = await made.run(ComputeOptimal())
    assert len(engine.prompts) == 10
    assert outcome.agreement == 0.5


async def test_the_same_seed_gives_the_same_choice_on_a_busy_server() -> None:
    once = await bench(ScriptedEngine(), sampling=Sampling(64, seed=5, logprobs=0)).run(
        ComputeOptimal()
    )
    again = await bench(ScriptedEngine(), sampling=Sampling(64, seed=5, logprobs=0)).run(
        ComputeOptimal()
    )
    assert (once.choices, once.agreement) == (again.choices, again.agreement)


def test_a_table_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadRequest, match="there are gsm8k") as caught:
        ComputeOptimal(table="nope").check(bench(Deck("")).request.service)
    assert caught.value.param == "strategy.table"


@pytest.mark.parametrize("name", shipped_tables())
def test_shipped_tables_say_where_they_come_from_and_what_can_be_run(name: str) -> None:
    table = shipped_tables()[name]
    assert {"pools", "folds", "seed"} <= table.provenance.keys()
    for choice in table.every_choice():
        assert sampler(choice.model_dump()).n == choice.n
    assert ComputeOptimal().table in shipped_tables()
    assert "compute_optimal" in strategy_classes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"thresholds": [0.6, 0.2]},
        {"thresholds": [0.2]},
        {"rows": []},
        {"rows": [{"max_tokens": 1, "choices": [[], [], [{"type": "single", "n": 1}]]}]},
        {"rows": [{"max_tokens": 2, "choices": [[], [], []]}] * 2},
        {"intercept": math.nan},
    ],
)
def test_what_is_no_table(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Table.model_validate({**TABLE.model_dump(), **wrong})
