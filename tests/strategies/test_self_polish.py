"""Self-Polish on scripted conversations: what is rewritten, when it settles, what is returned."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from strategies.budget import Budget
from strategies.self_polish import POLISH, SelfPolish
from tests.strategies.dialogue import LOOKUP, Dialogue, text
from tests.strategies.harness import Bench
from verifiers.types import Prompt, Sampling

ASKED = "What is 6 times 7?"


def rewriting(question: str) -> tuple[str, str]:
    return "user", POLISH.replace("{question}", question)


async def test_the_question_is_rewritten_until_two_answers_in_a_row_are_equal() -> None:
    dialogue = Dialogue("\\boxed{41}", "6 x 7?", "\\boxed{42}", "6 * 7 = ?", "so \\boxed{42.0}")
    bench = Bench(dialogue.engine)
    outcome = await bench.run(SelfPolish())
    assert [dialogue.asked(call) for call in range(5)] == [
        [("user", ASKED)],
        [rewriting(ASKED)],
        [("user", "6 x 7?")],
        [rewriting("6 x 7?")],
        [("user", "6 * 7 = ?")],
    ]
    assert outcome.choices[0].text == "so \\boxed{42.0}"
    assert text(bench) == ["\\boxed{41}", "\\boxed{42}", "so \\boxed{42.0}"]
    assert outcome.agreement is None
    assert bench.request.prompt_tokens == 5


@pytest.mark.parametrize(
    ("otherwise", "answer"), [("original", "1"), ("last", "4"), ("majority", "2")]
)
async def test_what_is_returned_where_no_two_in_a_row_are_equal(
    otherwise: str, answer: str
) -> None:
    asked = ["\\boxed{1}", "b?", "\\boxed{2}", "c?", "\\boxed{3}", "d?", "\\boxed{2}", "e?"]
    dialogue = Dialogue(*asked, "\\boxed{4}")
    strategy = SelfPolish.model_validate({"rounds": 4, "otherwise": otherwise})
    outcome = await Bench(dialogue.engine).run(strategy)
    assert outcome.choices[0].text == f"\\boxed{{{answer}}}"
    assert strategy.samples(1) == len(dialogue.prompts) == 9


@pytest.mark.parametrize(("calls", "answer"), [(1, "1"), (2, "1"), (3, "2"), (4, "2")])
async def test_a_spent_budget_leaves_a_finished_answer(calls: int, answer: str) -> None:
    dialogue = Dialogue("\\boxed{1}", "b?", "\\boxed{2}", "c?", "\\boxed{3}")
    bench = Bench(dialogue.engine, Budget(1_000, calls, 60.0))
    outcome = await bench.run(SelfPolish(otherwise="last"))
    assert (outcome.answer, outcome.stopped_by) == (answer, "calls")


async def test_a_rewriting_that_was_cut_or_is_empty_is_not_used() -> None:
    dialogue = Dialogue("\\boxed{1}", "a b c d e", "\\boxed{2}", " ", "\\boxed{3}")
    bench = Bench(dialogue.engine, sampling=Sampling(4))
    await bench.run(SelfPolish(rounds=2))
    assert dialogue.asked(2) == dialogue.asked(4) == [("user", ASKED)]


async def test_braces_in_a_question_stay_as_they_are() -> None:
    hostile = "{question} {0} {polish!r} %s $question"
    dialogue = Dialogue("\\boxed{1}", hostile, "\\boxed{1}")
    bench = Bench(dialogue.engine, prompt=Prompt(({"role": "user", "content": hostile},)))
    await bench.run(SelfPolish())
    assert dialogue.asked(1) == [("user", POLISH.split("{question}")[0] + hostile)]
    assert dialogue.asked(2) == [("user", hostile)]


async def test_the_conversation_before_stays_and_tools_are_for_the_answers() -> None:
    dialogue = Dialogue("\\boxed{1}", "and 6 x 7?", "\\boxed{1}")
    before = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"})
    messages = (*before, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": ASKED})
    bench = Bench(dialogue.engine, prompt=Prompt(messages, tools=(LOOKUP,)))
    await bench.run(SelfPolish())
    earlier = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi")]
    assert dialogue.asked(1) == [*earlier, rewriting(ASKED)]
    assert dialogue.asked(2) == [*earlier, ("user", "and 6 x 7?")]
    assert [each.tools for each in dialogue.prompts] == [(LOOKUP,), (), (LOOKUP,)]


def test_a_prompt_without_the_question_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"it lacks \{question\}"):
        SelfPolish(polish="Rewrite it.")
