"""Implicit rewards on engines that measure a reply as told: values by hand, abstention, cost."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import pytest

from server.engines.scripted import ScriptedEngine
from server.engines.scripts import split
from strategies.budget import Budget, Stage
from tests.strategies.harness import Bench
from verifiers.implicit_process_reward import ImplicitProcessReward
from verifiers.types import (
    UNSCORED,
    Candidate,
    Capabilities,
    Chunk,
    Engine,
    Prompt,
    Sampling,
    TokenLogprob,
)

TEXT = "First step.\n\nSecond here now"
"""Three tokens with the blank line, and three."""


class MeasuringEngine(ScriptedEngine):
    """Gives a token of a given reply the log-probability that the prompt's adapter gives it."""

    def __init__(self, measure: Callable[[str | None, str], float], *script: Any) -> None:
        super().__init__(*script)
        self.capabilities = replace(self.capabilities, adapters=("prime", "other"))
        self.measure = measure
        self.measured: list[Prompt] = []

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        """Measure first, where that is wanted."""
        async for chunk in super().generate(prompt, sampling, n):
            if not sampling.reply_logprobs:
                yield chunk
                continue
            assert prompt.reply is not None
            self.measured.append(prompt)
            tokens = split(prompt.reply.text)
            entries = [TokenLogprob(each, self.measure(prompt.adapter, each)) for each in tokens]
            yield replace(chunk, logprobs=(*entries, *chunk.logprobs[len(entries) :]))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def trained_better(adapter: str | None, token: str) -> float:
    """Give the first step twice as much per token, and the second half as much, when trained."""
    if adapter is None:
        return -2.0
    return -1.0 if token.strip() in ("First", "step.", "") else -4.0


def bench(**options: Any) -> tuple[Bench, MeasuringEngine]:
    given = {name: options.pop(name) for name in ("budget",) if name in options}
    engine = MeasuringEngine(trained_better, lambda *_: TEXT)
    verifier = ImplicitProcessReward(**{"adapter": "prime", "beta": 0.5} | options)
    return Bench(engine, verifier=verifier, **given), engine


async def test_steps_are_the_log_ratio_up_to_their_ends() -> None:
    given, engine = bench()
    (scored,) = await given.session.score(await given.session.sample(1))
    first, both = 0.5 * 3 * (2.0 - 1.0), 0.5 * (3 * (2.0 - 1.0) + 3 * (2.0 - 4.0))
    assert scored.steps == pytest.approx((sigmoid(first), sigmoid(both)))
    assert scored.score == pytest.approx(sigmoid(both))
    assert [each.adapter for each in engine.measured] == ["prime", None]


async def test_other_aggregations_and_no_evidence() -> None:
    given, _ = bench(aggregation="max")
    (scored,) = await given.session.score([Candidate("1", TEXT)])
    assert scored.score == pytest.approx(sigmoid(1.5))
    equal, _ = bench(adapter="prime", reference_adapter="other")
    (scored,) = await equal.session.score([Candidate("1", TEXT)])
    assert scored.steps == (0.5, 0.5)


async def test_each_reply_costs_two_calls_of_a_token() -> None:
    given, engine = bench()
    candidates = await given.session.sample(3)
    await given.session.score([replace(each, id=f"x{each.id}") for each in candidates])
    judged = given.ledger.usage[Stage.VERIFY]
    assert given.verifier is not None
    assert judged.calls == 3 * given.verifier.calls
    assert judged.completion_tokens <= 3 * given.verifier.max_tokens
    assert {each.reply.token_ids for each in engine.measured if each.reply} == {
        each.token_ids for each in candidates
    }


async def test_what_the_budget_cannot_pay_is_an_abstention() -> None:
    given, _ = bench(budget=Budget(100, 3, 60.0))
    scored = await given.session.score([Candidate("1", TEXT), Candidate("2", TEXT)])
    assert [each.score > 0 for each in scored] == [True, False]
    assert scored[1].score == UNSCORED
    assert given.at_rest()


async def test_nothing_said_is_an_abstention() -> None:
    given, _ = bench()
    (scored,) = await given.session.score([Candidate("1", "")])
    assert scored.score == UNSCORED


async def test_two_engines_are_compared_by_text() -> None:
    # The scripted engine numbers the words of a text without ids: 0, 1, 2 are 50, 68.5 and 87 %.
    chances = [0.5 + number * 37 % 97 / 200 for number in range(3)]
    trained = MeasuringEngine(lambda *_: -1.0)
    verifier = ImplicitProcessReward(engine="trained", reference_engine="reference", beta=1.0)
    engines: dict[str, Engine] = {"trained": trained, "reference": ScriptedEngine()}
    given = Bench(verifier=verifier, others=engines)
    (scored,) = await given.session.score([Candidate("1", "one two three", (901, 902, 903))])
    log_ratio = sum(-1.0 - math.log(chance) for chance in chances)
    assert scored.steps == pytest.approx((sigmoid(log_ratio),))


def test_it_needs_two_models_on_engines_that_measure() -> None:
    able = Capabilities(100, reply_logprobs=True, adapters=("prime", "other"))
    blind = replace(able, reply_logprobs=False)
    engines = {"able": able, "blind": blind, "bare": replace(able, adapters=())}
    prime = ImplicitProcessReward(adapter="prime")
    assert prime.unavailable_among(able, engines) is None
    assert prime.engines() == frozenset()
    assert "given" in str(prime.unavailable_among(blind, engines))
    assert "adapter" in str(prime.unavailable_among(engines["bare"], engines))
    assert "same" in str(ImplicitProcessReward().unavailable_among(able, engines))
    policy_is_reference = ImplicitProcessReward(engine="able")
    assert policy_is_reference.unavailable_among(able, engines) is None
    assert "given" in str(policy_is_reference.unavailable_among(blind, engines))
    two = ImplicitProcessReward(engine="able", reference_engine="bare")
    assert two.unavailable_among(blind, engines) is None
    assert two.engines() == {"able", "bare"}
    assert "given" in str(
        ImplicitProcessReward(engine="able", reference_engine="blind").unavailable_among(
            able, engines
        )
    )
