"""Chain of thought on scripted replies: what is asked, what streams, what the client gets."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from strategies.budget import Budget
from strategies.chain_of_thought import EXTRACTION, STEP_BY_STEP, ChainOfThought, Example
from strategies.events import Answer
from tests.strategies.dialogue import CALL, LOOKUP, Dialogue, text
from tests.strategies.harness import QUESTION, Bench
from verifiers.types import Message, Prompt, Sampling

ASKED = "What is 6 times 7?"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


async def test_the_trigger_follows_the_question_and_the_reply_streams() -> None:
    dialogue = Dialogue("6 times 7 is \\boxed{42}")
    bench = Bench(dialogue.engine)
    seen: list[str] = []
    bench.events.subscribe(
        lambda item: seen.append(item.candidate.text) if isinstance(item, Answer) else None
    )
    outcome = await bench.run(ChainOfThought())
    assert dialogue.asked(0) == [("user", f"{ASKED}\n\n{STEP_BY_STEP}")]
    assert seen == ["6", "6 times", "6 times 7", "6 times 7 is", "6 times 7 is \\boxed{42}"]
    assert (outcome.answer, outcome.agreement) == ("42", None)
    assert list(outcome.candidates) == list(outcome.choices)
    assert bench.request.prompt_tokens == 10


async def test_the_trigger_goes_to_the_users_last_turn_whatever_follows_it() -> None:
    dialogue = Dialogue("so \\boxed{1}")
    messages = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
    )
    prompt = Prompt(messages, tools=(LOOKUP,))
    bench = Bench(dialogue.engine, prompt=prompt)
    await bench.run(ChainOfThought())
    (sent,) = dialogue.prompts
    posed = {"type": "text", "text": f"What is this?\n\n{STEP_BY_STEP}"}
    assert sent.messages[3] == {"role": "user", "content": [IMAGE, posed]}
    assert (*sent.messages[:3], *sent.messages[4:]) == (*messages[:3], *messages[4:])
    assert sent.tools == (LOOKUP,)


async def test_examples_are_earlier_turns_and_take_the_triggers_place() -> None:
    dialogue = Dialogue("\\boxed{42}")
    system = {"role": "system", "content": "Be brief."}
    bench = Bench(dialogue.engine, prompt=Prompt((system, *QUESTION)))
    await bench.run(ChainOfThought(examples=(Example(question="2+2?", answer="1+1+2, so 4"),)))
    assert dialogue.asked(0) == [
        ("system", "Be brief."),
        ("user", "2+2?"),
        ("assistant", "1+1+2, so 4"),
        ("user", ASKED),
    ]


async def test_the_answer_is_extracted_by_a_second_reply() -> None:
    dialogue = Dialogue("six sevens are forty-two", "42")
    bench = Bench(dialogue.engine)
    outcome = await bench.run(ChainOfThought(extract=True))
    assert dialogue.asked(1) == [
        ("user", ASKED),
        ("assistant", "six sevens are forty-two"),
        ("user", EXTRACTION),
    ]
    assert [each.text for each in outcome.choices] == ["42"]
    assert outcome.answer == "42"


@pytest.mark.parametrize("n", [1, 2])
async def test_a_format_rules_the_second_reply_alone(n: int) -> None:
    dialogue = Dialogue(*["six sevens"] * n, *['{"n": 42}'] * n)
    bench = Bench(dialogue.engine, prompt=Prompt(QUESTION, response_format=SCHEMA), n=n)
    outcome = await bench.run(ChainOfThought())
    assert [each.response_format for each in dialogue.prompts] == [None] * n + [SCHEMA] * n
    assert [each.text for each in outcome.choices] == ['{"n": 42}'] * n
    assert outcome.answer == '{"n":42}'


async def test_a_forced_tool_is_called_by_the_second_reply_alone() -> None:
    dialogue = Dialogue("look it up", Message(tool_calls=(CALL,)))
    prompt = Prompt(QUESTION, tools=(LOOKUP,), tool_choice="required")
    bench = Bench(dialogue.engine, prompt=prompt)
    outcome = await bench.run(ChainOfThought())
    assert [each.tools for each in dialogue.prompts] == [(), (LOOKUP,)]
    assert outcome.choices[0].tool_calls == (CALL,)
    assert outcome.choices[0].finish_reason == "tool_calls"


async def test_thoughts_leave_tokens_for_the_answer_in_the_wanted_form() -> None:
    # 40 tokens, a quarter of them kept: 30 for thoughts that would be 50 long, 1 for the answer.
    dialogue = Dialogue(" ".join(["so"] * 50), '{"n":42}')
    prompt = Prompt(QUESTION, response_format=SCHEMA)
    bench = Bench(dialogue.engine, Budget(40, 10, 60.0), prompt=prompt, sampling=Sampling(64))
    outcome = await bench.run(ChainOfThought())
    assert [each.tokens for each in outcome.candidates] == [30, 1]
    assert outcome.choices[0].text == '{"n":42}'


async def test_without_a_second_call_the_thoughts_are_the_answer() -> None:
    dialogue = Dialogue("it is \\boxed{42}", "never asked")
    bench = Bench(dialogue.engine, Budget(1_000, 1, 60.0))
    heard: list[Answer] = []
    bench.events.subscribe(lambda i: heard.append(i) if isinstance(i, Answer) else None)
    outcome = await bench.run(ChainOfThought(extract=True))
    assert [each.text for each in outcome.choices] == ["it is \\boxed{42}"] == text(bench)
    assert outcome.stopped_by == "calls"
    assert [each.candidate.text for each in heard] == ["it is \\boxed{42}"]


def test_an_example_is_a_question_and_an_answer() -> None:
    with pytest.raises(ValidationError):
        ChainOfThought.model_validate({"examples": [{"question": "2+2?"}]})
    assert (ChainOfThought().samples(3), ChainOfThought(extract=False).samples(3)) == (6, 3)
