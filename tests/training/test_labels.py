"""Automatic step labels, against results and costs counted by hand."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from server.engines.scripted import ScriptedEngine
from training.completions import RolloutCompleter
from training.labels import (
    Beginning,
    Method,
    Reply,
    StepLabels,
    label_steps,
    math_shepherd,
    omega_prm,
)
from training.rewards import Rewards, RewardSettings
from training.rollouts.base import RolloutSettings, policy_sampling
from training.rollouts.engine import EngineRollouts, Refresh
from training.rows import Prompted, Stepped
from verifiers.types import Prompt, Sampling

ROW = Prompted.model_validate(
    {"prompt": "q", "reference": "4", "problem": "7", "source": {"trace": "t"}}
)


class Script:
    """Finishes a beginning rightly as often as it was told, and remembers each round."""

    def __init__(self, right: dict[str, int]) -> None:
        self.right = right
        self.rounds: list[list[str]] = []

    def __call__(self, beginnings: Sequence[Beginning], n: int) -> list[list[bool]]:
        self.rounds.append([each.text for each in beginnings])
        return [[place < self.right[each.text] for place in range(n)] for each in beginnings]


def labelled(
    method: Method, complete: Script, steps: Sequence[str], right: bool | None, n: int = 2
) -> tuple[Stepped, StepLabels]:
    (found,) = label_steps([Reply(ROW, tuple(steps), right)], method, complete, n)
    return found


def falls_at(step: int, count: int, name: str = "s") -> tuple[tuple[str, ...], Script]:
    """Make a reply of `count` steps whose completions all go wrong from `step` on."""
    steps = tuple(f"{name}{place} " for place in range(count))
    rights = {"".join(steps[: place + 1]): int(place < step) for place in range(count)}
    return steps, Script(rights)


def soft(reply: Reply) -> Any:
    return math_shepherd(reply)


def hard(reply: Reply) -> Any:
    return math_shepherd(reply, soft=False)


def test_math_shepherd_counts_completions() -> None:
    steps = ("a\n\n", "b\n\n", "c\n\n", "d")
    script = Script({"a\n\n": 3, "a\n\nb\n\n": 1, "a\n\nb\n\nc\n\n": 0})
    row, found = labelled(soft, script, steps, right=False, n=4)
    assert found == StepLabels((0.75, 0.25, 0.0, 0.0), (0.75, 0.25, 0.0, 0.0), 3)
    assert script.rounds == [list(script.right)]
    assert (row.steps, row.labels) == (steps, (0.75, 0.25, 0.0, 0.0))
    assert row.source == {"trace": "t", "completions": 12, "values": (0.75, 0.25, 0.0, 0.0)}
    assert (row.problem, row.reference, row.prompt) == ("7", "4", ROW.prompt)
    _, found = labelled(hard, script, steps, right=False, n=4)
    assert (found.labels, found.values) == ((1.0, 1.0, 0.0, 0.0), (0.75, 0.25, 0.0, 0.0))


def test_math_shepherd_completes_the_last_step_where_its_verdict_is_unknown() -> None:
    script = Script({"a": 1, "ab": 2})
    _, found = labelled(soft, script, ("a", "b"), right=None)
    assert found == StepLabels((0.5, 1.0), (0.5, 1.0), 2)
    _, found = labelled(soft, Script({}), ("a",), right=True)
    assert found == StepLabels((1.0,), (1.0,), 0)


def test_omega_prm_halves() -> None:
    # The third of 8 steps is wrong. Of the steps 0 to 7, 3 is bad, 1 is good, 2 is bad.
    steps, script = falls_at(2, 8)
    _, found = labelled(omega_prm, script, steps, right=False)
    assert script.rounds == [["".join(steps[: place + 1])] for place in (3, 1, 2)]
    assert found.labels == (1.0, 1.0, 0, 0, 0, 0, 0, 0)
    assert found.values == (None, 0.5, 0.0, 0.0, None, None, None, 0.0)
    assert found.probes == 3


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 16])
@pytest.mark.parametrize("right", [False, None])
def test_omega_prm_finds_every_first_wrong_step(count: int, right: bool | None) -> None:
    for first in range(count):
        steps, script = falls_at(first, count)
        _, found = labelled(omega_prm, script, steps, right)
        assert found.labels == (1.0,) * first + (0.0,) * (count - first)
        # Any of m steps may be the first wrong one, or none where that is not excluded.
        places = count if right is False else count + 1
        assert found.probes == len(script.rounds) <= math.ceil(math.log2(places))


def test_omega_prm_of_right_replies() -> None:
    steps, script = falls_at(5, 5)
    _, found = labelled(omega_prm, script, steps, right=True)
    assert (found.labels, found.probes, script.rounds) == ((1.0,) * 5, 0, [])
    _, found = labelled(omega_prm, script, steps, right=None)
    assert (found.labels, found.probes) == ((1.0,) * 5, 2)  # after the third, and after the last


def test_replies_are_labelled_side_by_side() -> None:
    made = [falls_at(first, 8, name) for first, name in zip((2, 7, 0), "xyz", strict=True)]
    script = Script({text: times for _, each in made for text, times in each.right.items()})
    replies = [Reply(ROW, steps, False) for steps, _ in made]
    found = [labels for _, labels in label_steps(replies, omega_prm, script, 2)]
    assert [sum(each.labels) for each in found] == [2, 7, 0]
    assert [each.probes for each in found] == [3, 3, 3]
    assert [len(each) for each in script.rounds] == [3, 3, 3]
    apart = Script(script.right)
    assert [labels for _, labels in label_steps(replies, omega_prm, apart, 2, 1)] == found
    assert [len(each) for each in apart.rounds] == [1] * 9


def _unchanging(engine: Any) -> Refresh:
    return lambda loop, model, step: None


def test_a_model_completes_and_a_verifier_judges() -> None:
    r"""From "good" on, every other completion ends in \boxed{4}; from "bad" on, none does."""

    def script(prompt: Prompt, sampling: Sampling, index: int) -> str:
        assert prompt.reply is not None
        hopeful = "bad" not in prompt.reply.text and (sampling.first + index) % 2 == 0
        return f"so \\boxed{{{4 if hopeful else 5}}}"

    engine = ScriptedEngine(script)

    async def start() -> ScriptedEngine:
        return engine

    rewards = [RewardSettings(verifier="math")]
    with (
        EngineRollouts(RolloutSettings(), start, _unchanging) as rollouts,
        Rewards(rewards, rollouts) as judge,
    ):
        complete = RolloutCompleter(rollouts, judge, policy_sampling(64, seed=1, logprobs=None))
        reply = Reply(ROW, ("good\n\n", "bad\n\n", "\\boxed{5}"), False)
        ((row, found),) = label_steps([reply], math_shepherd, complete, 4)
        assert row.labels == (0.5, 0.0, 0.0)
        assert found.probes == 2
        ((row, found),) = label_steps([reply], omega_prm, complete, 4)
        assert row.labels == (1.0, 0.0, 0.0)
        assert found.probes == 2  # after the second step, and the first
