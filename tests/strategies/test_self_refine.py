"""Self-Refine on scripted conversations: what each prompt holds, when it stops, what is kept."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from strategies.budget import Budget
from strategies.self_refine import FEEDBACK, REFINE, SelfRefine
from tests.strategies.dialogue import CALL, LOOKUP, Dialogue, text
from tests.strategies.harness import QUESTION, Bench
from verifiers.types import Message, Prompt, Sampling

ASKED = ("user", "What is 6 times 7?")
CHECK = ("user", FEEDBACK.replace("{stop_phrase}", "it is correct"))


async def test_each_prompt_is_the_beginning_of_the_next() -> None:
    dialogue = Dialogue("it is \\boxed{41}", "count again", "it is \\boxed{42}", "It is correct.")
    bench = Bench(dialogue.engine)
    outcome = await bench.run(SelfRefine())
    told = [
        ASKED,
        ("assistant", "it is \\boxed{41}"),
        CHECK,
        ("assistant", "count again"),
        ("user", REFINE),
        ("assistant", "it is \\boxed{42}"),
        CHECK,
    ]
    assert [dialogue.asked(call) for call in range(4)] == [told[:1], told[:3], told[:5], told[:7]]
    assert dialogue.temperatures == [0.7] * 4
    assert (outcome.answer, outcome.agreement) == ("42", None)
    assert text(bench) == ["it is \\boxed{41}", "it is \\boxed{42}"]
    assert bench.request.prompt_tokens == 5
    assert bench.ledger.total.calls == 4


async def test_it_stops_when_a_refinement_answers_the_same() -> None:
    dialogue = Dialogue("it is \\boxed{0.5}", "say more", "one half, so \\boxed{1/2}")
    outcome = await Bench(dialogue.engine).run(SelfRefine())
    assert outcome.choices[0].text == "one half, so \\boxed{1/2}"


async def test_replies_without_answers_are_the_same_only_in_the_same_words() -> None:
    long = "a reply of some length that marks nothing as its answer, "
    dialogue = Dialogue(long + "one", "hm", long + "two", "hm", long + "two")
    outcome = await Bench(dialogue.engine).run(SelfRefine())
    assert outcome.choices[0].text == long + "two"
    assert len(dialogue.prompts) == 5


async def test_it_ends_after_its_rounds() -> None:
    dialogue = Dialogue("\\boxed{1}", "no", "\\boxed{2}", "no", "\\boxed{3}")
    strategy = SelfRefine(rounds=2)
    outcome = await Bench(dialogue.engine).run(strategy)
    assert outcome.answer == "3"
    assert strategy.samples(1) == len(dialogue.prompts) == 5


@pytest.mark.parametrize(("calls", "answer"), [(1, "1"), (2, "1"), (3, "2"), (4, "2"), (5, "3")])
async def test_a_spent_budget_leaves_the_newest_version(calls: int, answer: str) -> None:
    dialogue = Dialogue("\\boxed{1}", "no", "\\boxed{2}", "no", "\\boxed{3}", "no", "\\boxed{4}")
    bench = Bench(dialogue.engine, Budget(1_000, calls, 60.0))
    outcome = await bench.run(SelfRefine())
    assert (outcome.answer, outcome.stopped_by) == (answer, "calls")


async def test_a_version_that_the_budget_cut_gives_way_to_the_one_before() -> None:
    # 3 + 2 tokens, then 5 of the 9 that the second version would have.
    dialogue = Dialogue("it is \\boxed{41}", "count again", "no " * 8 + "\\boxed{42}")
    bench = Bench(dialogue.engine, Budget(10, 100, 60.0))
    outcome = await bench.run(SelfRefine(rounds=1))
    assert (outcome.answer, outcome.stopped_by) == ("41", "tokens")
    assert [each.done for each in outcome.candidates] == [True, False]


async def test_tools_and_formats_rule_the_versions_and_not_the_feedback() -> None:
    call = Message(tool_calls=(CALL,))
    dialogue = Dialogue(call, "no", call)
    prompt = Prompt(QUESTION, tools=(LOOKUP,), response_format={"type": "json_object"})
    bench = Bench(dialogue.engine, prompt=prompt)
    outcome = await bench.run(SelfRefine())
    assert [each.tools for each in dialogue.prompts] == [(LOOKUP,), (), (LOOKUP,)]
    formats = [each.response_format for each in dialogue.prompts]
    assert formats == [{"type": "json_object"}, None, {"type": "json_object"}]
    assert dialogue.asked(1)[1] == ("assistant", '[{"arguments":{"x":1},"name":"look_up"}]')
    assert outcome.choices[0].tool_calls == (CALL,)


async def test_each_answer_is_refined_by_itself() -> None:
    bench = Bench(n=3, sampling=Sampling(200, seed=3, logprobs=0))
    outcome = await bench.run(SelfRefine(rounds=1))
    assert [each.id.count(".") for each in outcome.choices] == [4] * 3
    assert len({each.id.split(".")[1] for each in outcome.choices}) == 3


def test_a_feedback_prompt_without_its_placeholder_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"it lacks \{stop_phrase\}"):
        SelfRefine(feedback="Check {everything}.")
    assert SelfRefine(feedback="{a} {stop_phrase}").feedback == "{a} {stop_phrase}"
