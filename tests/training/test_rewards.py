"""Rewards: the verifiers that serve, weighted, told of each row what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from tests.verifiers.label_engine import LabelEngine
from tests.verifiers.opinions import OpinionatedEngine
from training.rewards import Rewards, RewardSettings, open_rewards
from training.rollouts.base import RolloutSettings
from training.rollouts.engine import EngineRollouts
from training.rollouts.grpo import reward_function
from training.rows import Prompted
from verifiers.errors import BadRequest
from verifiers.types import Candidate, Engine, Prompt

SUM = Prompted(prompt="What is 12 + 30?", reference="42")
PRODUCT = Prompted(prompt="What is 3 · 4?", reference="12")
WORDS = Prompted(prompt="Say something.")


def reply(text: str, number: int = 0, *, done: bool = True) -> Candidate:
    return Candidate(f"0.{number}", text, tokens=3, finish_reason="stop" if done else None)


def opinion(question: str) -> Mapping[str, float]:
    """Grade what is polite 9 or 6, all else 0."""
    return {"9": 0.5, "6": 0.5} if "please" in question else {"0": 1.0}


def step_right(prompt: Prompt) -> Mapping[str, float]:
    """Call the first step right at 0.8, later ones at 0.1."""
    assert prompt.reply is not None
    return {"+": 0.1, "-": 0.9} if "boxed" in prompt.reply.text else {"+": 0.4, "-": 0.1}


@pytest.fixture
def engine() -> OpinionatedEngine:
    return OpinionatedEngine(opinion)


def judging(engine: Engine) -> EngineRollouts:
    async def start() -> Engine:
        return engine

    settings = RolloutSettings.model_validate(
        {"backend": "model", "engines": {"teacher": {"engine": "scripted"}}}
    )
    return EngineRollouts(settings, start, lambda _: lambda *_: None)


@pytest.fixture
def rollouts(engine: OpinionatedEngine) -> Iterator[EngineRollouts]:
    with judging(engine) as rollouts:
        yield rollouts


def opened(rollouts: EngineRollouts, *tables: Mapping[str, Any] | str) -> Rewards:
    whole = [{"verifier": each} if isinstance(each, str) else dict(each) for each in tables]
    return open_rewards([RewardSettings.model_validate(each) for each in whole], rollouts)


def test_the_total_is_the_weighted_sum_and_the_parts_are_kept(rollouts: EngineRollouts) -> None:
    tables = (
        {"verifier": "math", "weight": 2.0},
        {"verifier": "regex", "weight": 0.5, "fields": {"pattern": r"\\boxed"}, "name": "format"},
    )
    replies = [
        [reply(r"So \boxed{42}", 0), reply(r"So \boxed{41}", 1), reply("The answer is 42", 2)],
        [reply(r"\boxed{\frac{24}{2}}", 0)],
    ]
    with opened(rollouts, *tables) as rewards:
        (right, wrong, bare), (product,) = rewards.score([SUM, PRODUCT], replies)
    assert right.total == 2.5
    assert wrong.total == 0.5
    assert (wrong.parts["math"].value, wrong.parts["format"].value) == (0.0, 1.0)
    assert bare.parts["format"].value == 0.0
    assert bare.total == 2 * bare.parts["math"].value
    assert product.total == 2.5


def test_a_weight_below_zero_is_a_penalty(rollouts: EngineRollouts) -> None:
    table = {"verifier": "regex", "weight": -0.25, "fields": {"pattern": "sorry"}}
    with opened(rollouts, table) as rewards:
        ((rude, sorry),) = rewards.score([WORDS], [[reply("No."), reply("I am sorry.", 1)]])
    assert (rude.total, sorry.total) == (0.0, -0.25)


def test_an_abstention_counts_nothing(rollouts: EngineRollouts) -> None:
    tables = ("math", {"verifier": "regex", "fields": {"pattern": "so"}, "weight": 0.5})
    with opened(rollouts, *tables) as rewards:
        ((unfinished,),) = rewards.score([SUM], [[reply("so far", done=False)]])
    assert unfinished.parts["math"].abstained
    assert unfinished.parts["regex"].abstained
    assert unfinished.total == 0.0


def test_a_judge_asks_the_policys_engine(
    rollouts: EngineRollouts, engine: OpinionatedEngine
) -> None:
    table = {"verifier": {"type": "judge"}, "fields": {"criteria": ["Is it polite?"]}}
    with opened(rollouts, table) as rewards:
        ((polite, rude),) = rewards.score([WORDS], [[reply("Yes, please."), reply("No!", 1)]])
    assert polite.total == pytest.approx(7.5 / 9)
    assert rude.total == 0.0
    assert len(engine.questions) == 2
    assert all("Is it polite?" in question for question in engine.questions)


def test_a_judge_with_an_engine_of_its_own_asks_nobody_else(
    rollouts: EngineRollouts, engine: OpinionatedEngine
) -> None:
    with opened(rollouts, {"verifier": {"type": "judge", "engine": "teacher"}}) as rewards:
        ((sample,),) = rewards.score([WORDS], [[reply("Yes, please.")]])
    assert sample.parts["judge"].abstained  # a script gives no grades
    assert sample.total == 0.0
    assert engine.questions == []
    assert rollouts.engines["teacher"].statistics["generated_tokens_total"] == 1


def test_scores_of_steps_are_passed_on() -> None:
    table = {"type": "process_reward", "aggregation": "min"}
    steps = reply("Thirty and twelve.\n\nSo \\boxed{42}")
    with (
        judging(LabelEngine(step_right)) as rollouts,
        opened(rollouts, "math", {"verifier": table}) as rewards,
    ):
        ((sample,),) = rewards.score([SUM], [[steps]])
    assert sample.steps == sample.parts["process_reward"].steps == pytest.approx((0.8, 0.1))
    assert sample.total == pytest.approx(1.1)


def test_a_row_without_what_a_verifier_needs_is_named(rollouts: EngineRollouts) -> None:
    with opened(rollouts, "math") as rewards:
        rewards.check([SUM, PRODUCT])
        with pytest.raises(BadRequest, match=r"row 1 \('Say something.'\): math: reference: Field"):
            rewards.check([SUM, WORDS])
        with pytest.raises(BadRequest, match="row 0"):
            rewards.score([WORDS], [[reply("42")]])


def test_a_rows_own_fields_win_over_the_recipes(rollouts: EngineRollouts) -> None:
    own = Prompted(prompt="Say a.", fields={"pattern": "a", "tests": "of another verifier"})
    with opened(rollouts, {"verifier": "regex", "fields": {"pattern": "b"}}) as rewards:
        (first, second) = rewards.score([own, WORDS], [[reply("a")], [reply("a")]])
    assert [first[0].total, second[0].total] == [1.0, 0.0]


def test_an_ensemble_takes_what_its_members_take(rollouts: EngineRollouts) -> None:
    members = [{"verifier": {"type": "math"}}, {"verifier": {"type": "judge"}, "weight": 3.0}]
    with opened(rollouts, {"verifier": {"type": "ensemble", "members": members}}) as rewards:
        ((sample,),) = rewards.score([SUM], [[reply("please \\boxed{42}")]])
    assert sample.total == pytest.approx((1 + 3 * 7.5 / 9) / 4)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (("math", "math"), "two rewards are called 'math'"),
        (({"verifier": {"type": "judge", "engine": "big"}},), "there is no engine 'big'"),
    ],
)
def test_rewards_that_cannot_be_had_are_refused(
    rollouts: EngineRollouts, tables: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        opened(rollouts, *tables)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"verifier": "maths"}, "there is no verifier 'maths'; there are"),
        ({"verifier": {"type": "judge", "repeat": 2}}, "verifier judge: repeat: Extra inputs"),
        ({"verifier": "math", "weights": 1.0}, "weights"),
        ({"verifier": "math", "weight": float("nan")}, "finite"),
    ],
)
def test_settings_that_are_wrong_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RewardSettings.model_validate(table)


def test_log_probabilities_are_asked_for_where_a_verifier_reads_them(
    rollouts: EngineRollouts,
) -> None:
    with opened(rollouts, "math") as rewards:
        assert rewards.logprobs is None
    certainty = {"verifier": {"type": "logprob", "measure": "self_certainty"}}
    with opened(rollouts, "math", certainty) as rewards:
        assert rewards.logprobs == 20


def test_trl_is_given_totals_in_the_order_of_its_replies(rollouts: EngineRollouts) -> None:
    logged: dict[str, float] = {}
    drawn = [reply(f"\\boxed{{{number}}}", number) for number in (42, 12, 12, 42)]
    with opened(rollouts, {"verifier": "math", "weight": 3.0}) as rewards:
        reward = reward_function(rewards, [SUM, PRODUCT], lambda parts: logged.update(parts))
        totals = reward(row=[0, 0, 1, 1], candidate=drawn, prompts=[], completions=[])
    assert totals == [3.0, 0.0, 3.0, 0.0]
    assert logged == {"rewards/math": 0.5, "accuracy": 0.5}
