"""Strategies as parameters: what is accepted, what is refused and where, and how they add up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from server.engines.scripted import ScriptedEngine
from strategies.base import Need, strategy_classes
from strategies.best_of_n import BestOfN
from strategies.budget import Budget
from strategies.cascade import Acceptance, Cascade, Stage
from strategies.compute_optimal import ComputeOptimal
from strategies.inner import DEEPEST, levels, sampler
from strategies.mcts import MCTS
from strategies.self_consistency import SelfConsistency
from strategies.single import Single
from verifiers.judge import Judge

ABLE = ScriptedEngine().capabilities


def cascade(*inner: Any) -> Cascade:
    return Cascade.model_validate({"stages": [{"strategy": each} for each in inner]})


def nested(depth: int) -> Any:
    """Return a strategy with `depth` more inside each other."""
    if not depth:
        return "single"
    return {"type": "cascade", "stages": [{"strategy": nested(depth - 1)}, {"strategy": "single"}]}


def complaint(data: Any) -> tuple[str, str]:
    """Return where the first thing is wrong and what it is, the same for Python and JSON."""
    with pytest.raises(ValidationError) as python:
        Cascade.model_validate(data)
    with pytest.raises(ValidationError) as text:
        Cascade.model_validate_json(json.dumps(data), strict=True)
    first, same = (caught.value.errors()[0] for caught in (python, text))
    assert (first["loc"], first["type"]) == (same["loc"], same["type"])
    return ".".join(map(str, first["loc"])), first["type"]


def test_a_name_stands_for_the_strategy_with_its_defaults() -> None:
    built = cascade("self_consistency", {"type": "best_of_n", "n": 3})
    assert [stage.strategy for stage in built.stages] == [SelfConsistency(), BestOfN(n=3)]


def test_auto_is_another_name_inside_too() -> None:
    built = cascade("auto", {"type": "auto", "n": 5})
    assert [stage.strategy for stage in built.stages] == [ComputeOptimal(), ComputeOptimal(n=5)]
    assert Cascade.model_validate(built.model_dump()) == built


@pytest.mark.parametrize(
    ("inner", "where", "kind"),
    [
        ("nope", "", "unknown"),
        (7, "", "strategy"),
        ({"n": 3}, ".type", "missing"),
        ({"type": "nope"}, ".type", "unknown"),
        ({"type": 7}, ".type", "unknown"),
        ({"type": "best_of_n", "n": 0}, ".n", "greater_than_equal"),
        ({"type": "best_of_n", "m": 3}, ".m", "extra_forbidden"),
    ],
)
def test_what_is_wrong_is_told_by_its_place(inner: Any, where: str, kind: str) -> None:
    data = {"stages": [{"strategy": "single"}, {"strategy": inner}]}
    assert complaint(data) == (f"stages.1.strategy{where}", kind)


def test_json_is_judged_strictly_all_the_way_down() -> None:
    data = {"stages": [{"strategy": "single"}, {"strategy": {"type": "best_of_n", "n": "3"}}]}
    assert Cascade.model_validate(data).stages[1].strategy == BestOfN(n=3)
    with pytest.raises(ValidationError, match="valid integer"):
        Cascade.model_validate_json(json.dumps(data))


def test_strategies_go_three_deep_and_no_deeper() -> None:
    deepest = Cascade.model_validate(nested(DEEPEST))
    assert levels(deepest) == 1 + DEEPEST
    place = ".".join(["stages.0.strategy"] * (DEEPEST + 1))
    assert complaint(nested(DEEPEST + 1)) == (place, "too_deep")
    with pytest.raises(ValidationError, match="at most 3 deep"):
        Cascade(stages=(Stage(strategy=deepest), Stage(strategy=Single())))


def test_what_a_default_holds_is_counted_too() -> None:
    def around(inner: Any) -> Any:
        return {"type": "cascade", "stages": [{"strategy": inner}, {"strategy": "single"}]}

    Cascade.model_validate(around(around("cascade")))
    place = ".".join(["stages.0.strategy"] * 3)
    assert complaint(around(around(around("cascade")))) == (place, "too_deep")


def test_a_nested_strategy_survives_a_round_trip() -> None:
    built = Cascade.model_validate(nested(2))
    assert Cascade.model_validate_json(built.model_dump_json()) == built
    assert Cascade.model_validate(built.model_dump(exclude_defaults=True)) == built
    assert built.model_dump()["stages"][1]["strategy"] == {"type": "single"}


def test_the_schema_names_the_strategies_there_are() -> None:
    schema = Cascade.model_json_schema()
    text = json.dumps(schema["$defs"]["Stage"]["properties"]["strategy"])
    assert "$ref" not in text
    assert all(f'"{name}"' in text for name in strategy_classes())


def test_needs_samples_and_choices_add_up() -> None:
    built = cascade({"type": "best_of_n", "n": 3}, {"type": "mcts"})
    assert built.required() == {Need.SCORES, Need.STEP_SCORES, Need.CONTINUATION}
    assert built.samples(2) == 3 + MCTS().samples(2)
    assert cascade({"type": "best_of_n", "n": 3}, "single").choices(5) == 3


def test_the_worst_case_adds_up_and_ends_at_the_budget() -> None:
    judge, wide = Judge(), Budget(1_000_000)
    built = cascade({"type": "best_of_n", "n": 3}, {"type": "self_consistency", "n": 5})
    tokens = 3 * (100 + judge.max_tokens) + 5 * 100
    assert built.worst_case(1, 100, judge, wide) == (8, tokens)
    scored = built.model_copy(update={"accept": Acceptance(minimum_score=0.5)})
    assert scored.worst_case(1, 100, judge, wide).tokens == tokens + judge.max_tokens
    assert built.worst_case(1, 100, judge, Budget(700)).tokens == 700


def test_a_sampler_is_a_parallel_strategy() -> None:
    assert sampler({"type": "self_consistency", "n": 3}) == SelfConsistency(n=3)
    for wrong in ({"type": "single"}, {"type": "nope"}, {"type": "self_consistency", "n": 0}):
        with pytest.raises(ValueError, match=r"independent|nope|greater"):
            sampler(wrong)
