"""The judge on a scripted engine: expectation, abstention, cost."""

from __future__ import annotations

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.best_of_n import BestOfN
from strategies.budget import Budget, Stage
from tests.strategies.harness import Bench
from verifiers.judge import Judge
from verifiers.types import Capabilities, JSONObject, Prompt, Sampling


def judged_by(grade: str, seen: list[Prompt] | None = None, **options: object) -> Bench:
    """Make a bench whose policy says \\boxed{i} and whose judge says `grade`."""

    def script(prompt: Prompt, sampling: Sampling, index: int) -> str:
        if "Grade (one digit" in str(prompt.messages[-1]["content"]):
            if seen is not None:
                seen.append(prompt)
            return grade
        return f"\\boxed{{{sampling.first + index}}}"

    return Bench(ScriptedEngine(script), verifier=Judge(), **options)  # type: ignore[arg-type]


async def test_the_score_is_the_expected_grade() -> None:
    # The scripted engine's other alternatives are no digits, so all the digits' mass is on 7.
    bench = judged_by("7")
    scored = await bench.session.score(await bench.session.sample(2))
    assert [each.score for each in scored] == [pytest.approx(7 / 9)] * 2


async def test_a_reply_that_is_no_grade_is_an_abstention() -> None:
    bench = judged_by("good")
    outcome = await bench.run(BestOfN(n=3))
    assert outcome.choices
    assert all(each.score == -float("inf") for each in outcome.candidates)


async def test_judging_costs_one_token_and_one_call_a_candidate() -> None:
    bench = judged_by("3")
    await bench.run(BestOfN(n=5))
    judged = bench.ledger.usage[Stage.VERIFY]
    assert (judged.calls, judged.completion_tokens) == (5, 5)
    assert judged.prompt_tokens > 0


async def test_what_the_budget_cannot_pay_is_not_judged() -> None:
    bench = judged_by("3", budget=Budget(100, 7, 60.0))
    outcome = await bench.run(BestOfN(n=5))
    assert sum(each.score > 0 for each in outcome.candidates) == 2
    assert outcome.choices[0].score > 0
    assert outcome.stopped_by == "calls"


async def test_the_shared_part_comes_first_and_the_criteria_last() -> None:
    seen: list[Prompt] = []
    fields: JSONObject = {"criteria": "Is it polite?"}
    bench = judged_by("3", seen, fields=fields)
    await bench.run(BestOfN(n=2))
    one, other = (str(each.messages[-1]["content"]) for each in seen)
    shared = "Conversation:\nuser: What is 6 times 7?\n\nReply:\n\\boxed{"
    assert one.startswith(shared)
    assert other.startswith(shared)
    assert one.endswith("Criteria: Is it polite?\nGrade (one digit from 0 to 9):")


async def test_another_engine_can_judge() -> None:
    other = ScriptedEngine(lambda *_: "9")
    bench = Bench(verifier=Judge(engine="small"), others={"small": other})
    scored = await bench.session.score(await bench.session.sample(2))
    assert [each.score for each in scored] == [pytest.approx(1.0)] * 2
    assert other.log["tokens"] == 2


def test_it_needs_alternatives_of_its_own_engine() -> None:
    blind, able = Capabilities(100, logprobs=0), Capabilities(100, logprobs=20)
    assert "alternatives" in str(Judge().unavailable(blind, blind))
    assert Judge(engine="small").unavailable(blind, able) is None
