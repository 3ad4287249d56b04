"""The generative verifier on an engine whose opinions are known: values, questions, cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.best_of_n import BestOfN
from strategies.budget import Budget, Stage
from tests.strategies.harness import Bench
from tests.verifiers.label_engine import LabelEngine
from verifiers.generative import QUESTION, QUESTION_SO_FAR, VERDICT, Generative
from verifiers.types import (
    TOKEN_IDS,
    UNSCORED,
    Candidate,
    Capabilities,
    Continuation,
    Prompt,
    Sampling,
)

MASSES: Mapping[str, float] = {"Yes": 0.3, " yes": 0.1, "No": 0.1, "Well": 0.5}


def script(prompt: Prompt, sampling: Sampling, index: int) -> str:
    """Answer, and verify: the second verification ends with another word."""
    place = sampling.first + index
    if len(prompt.messages) > 1:
        return f"Let me see: {'bad' if place % 2 else 'good'}"
    return f"It is \\boxed{{{place}}}"


def bench(chances: Any = lambda _: MASSES, **options: Any) -> tuple[Bench, LabelEngine]:
    given = {name: options.pop(name) for name in ("budget", "fields") if name in options}
    engine = LabelEngine(chances, script)
    return Bench(engine, verifier=Generative(**options), **given), engine


async def test_the_score_is_the_share_of_yes() -> None:
    given, engine = bench()
    scored = await given.session.score(await given.session.sample(3))
    assert [each.score for each in scored] == [pytest.approx(0.8)] * 3
    judged = given.ledger.usage[Stage.VERIFY]
    assert (judged.calls, judged.completion_tokens, len(engine.asked)) == (3, 3, 3)


async def test_the_question_follows_the_reply_and_its_tokens() -> None:
    given, engine = bench()
    (candidate,) = await given.session.sample(1)
    await given.session.score([candidate])
    *before, said, question = engine.asked[0].messages
    assert tuple(before) == given.prompt.messages
    assert said == {
        "role": "assistant",
        "content": candidate.text,
        TOKEN_IDS: candidate.token_ids,
    }
    assert question["role"] == "user"
    assert str(question["content"]).startswith(f"{QUESTION}\n")


async def test_a_reply_that_goes_on_is_judged_so_far() -> None:
    given, engine = bench()
    await given.session.score([Candidate("1", "It is")])
    assert str(engine.asked[0].messages[-1]["content"]).startswith(QUESTION_SO_FAR)


async def test_the_request_may_give_the_right_answer() -> None:
    given, engine = bench(fields={"reference": "42 {apples}"}, instruction="", question="Right?")
    await given.session.score(await given.session.sample(1))
    asked = engine.asked[0].messages[-1]["content"]
    assert asked == "Right?\nThe correct final answer is: 42 {apples}"


async def test_other_words_are_labels_where_they_are_configured() -> None:
    given, _ = bench(lambda _: {"A": 0.1, "B": 0.3}, yes="A", no="B")
    (scored,) = await given.session.score(await given.session.sample(1))
    assert scored.score == pytest.approx(0.25)


async def test_labels_that_are_hardly_there_are_an_abstention() -> None:
    given, _ = bench(lambda _: {"Well": 0.9, "Yes": 0.05})
    outcome = await given.run(BestOfN(n=3))
    assert outcome.choices
    assert all(each.score == UNSCORED for each in outcome.candidates)


async def test_what_the_budget_cannot_pay_is_an_abstention() -> None:
    given, _ = bench(budget=Budget(100, 5, 60.0))
    outcome = await given.run(BestOfN(n=4))
    assert sorted(each.score > 0 for each in outcome.candidates) == [False] * 3 + [True]


def doubtful(prompt: Prompt) -> Mapping[str, float]:
    """Say after a verification what it came to; one that says nothing useful cannot be read."""
    assert prompt.reply is not None
    assert prompt.reply.text.endswith(VERDICT)
    return {"Yes": 0.9, "No": 0.1} if "good" in prompt.reply.text else {"Yes": 0.2, "No": 0.6}


async def test_verdicts_after_verifications_are_averaged() -> None:
    given, engine = bench(doubtful, rationale_tokens=20, votes=2)
    scored = await given.session.score(await given.session.sample(2))
    assert [each.score for each in scored] == [pytest.approx((0.9 + 0.25) / 2)] * 2
    assert given.verifier is not None
    judged = given.ledger.usage[Stage.VERIFY]
    assert judged.calls == 2 * given.verifier.calls == 8
    assert judged.completion_tokens == 2 * 2 * (4 + 1) <= 2 * given.verifier.max_tokens
    assert len(engine.asked) == 4


async def test_verdicts_that_cannot_be_read_do_not_count() -> None:
    given, _ = bench(
        lambda prompt: {"Yes": 0.9} if "good" in prompt.reply.text else {"Hm": 0.9},
        rationale_tokens=20,
        votes=2,
    )
    (scored,) = await given.session.score(await given.session.sample(1))
    assert scored.score == pytest.approx(1.0)


async def test_verifications_that_cannot_be_paid_are_an_abstention() -> None:
    given, engine = bench(doubtful, rationale_tokens=20, votes=2, budget=Budget(200, 3, 60.0))
    one, two = Candidate("1", "One"), Candidate("2", "Two")
    scored = await given.session.score([one, two])
    assert [each.score for each in scored] == [UNSCORED, UNSCORED]
    assert engine.asked == []
    assert given.at_rest()


async def test_another_engine_judges_by_text_with_its_adapter() -> None:
    other = LabelEngine(lambda _: MASSES)
    verifier = Generative(engine="small", adapter="genrm")
    given = Bench(ScriptedEngine(script), verifier=verifier, others={"small": other})
    (scored,) = await given.session.score(await given.session.sample(1))
    assert scored.score == pytest.approx(0.8)
    (asked,) = other.asked
    assert asked.adapter == "genrm"
    assert TOKEN_IDS not in asked.messages[-2]


def test_it_needs_alternatives_and_for_verifications_continuation() -> None:
    able = Capabilities(100, Continuation.NONE, logprobs=20)
    assert Generative().unavailable(able, able) is None
    assert "go on" in str(Generative(rationale_tokens=9).unavailable(able, able))
    assert "alternatives" in str(Generative().unavailable(able, replace(able, logprobs=None)))
    assert "adapter" in str(Generative(adapter="genrm").unavailable(able, able))
