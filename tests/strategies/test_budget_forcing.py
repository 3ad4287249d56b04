"""Budget forcing on scripted thoughts: when it waits, when it cuts, what it counts."""

from __future__ import annotations

import json

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.budget import Budget
from strategies.budget_forcing import MOST_WAITS, BudgetForcing
from strategies.events import Answer
from tests.strategies.dialogue import Dialogue
from tests.strategies.harness import QUESTION, Bench
from tests.strategies.variants import TextOnly
from verifiers.types import Prompt, Sampling

WORDS = " ".join(f"w{i}" for i in range(60))
TRIES = ("it is \\boxed{41}", " it is \\boxed{40}", " it is \\boxed{42}", " it is \\boxed{43}")


def spent(bench: Bench) -> tuple[int, int]:
    """Tokens and calls; the engine agrees."""
    total = bench.ledger.total
    assert total.completion_tokens == bench.engine.log["tokens"]  # type: ignore[attr-defined]
    return total.completion_tokens, total.calls


def replies(dialogue: Dialogue) -> list[str]:
    """What each prompt went on with."""
    return [prompt.reply.text if prompt.reply else "" for prompt in dialogue.prompts]


@pytest.mark.parametrize("waits", [0, 1, 2, 3])
async def test_a_plain_reply_is_made_to_go_on_so_many_times(waits: int) -> None:
    dialogue = Dialogue(*TRIES)
    bench = Bench(dialogue.engine)
    outcome = await bench.run(BudgetForcing(waits=waits))
    whole = "\n\nWait".join(TRIES[: waits + 1])
    assert [each.text for each in outcome.choices] == [whole]
    assert outcome.answer == ("41", "40", "42", "43")[waits]
    assert outcome.choices[0].tokens == 3 * (waits + 1)  # what is put in is not counted
    assert spent(bench) == (3 * (waits + 1), waits + 1)
    asked = ["\n\nWait".join((*TRIES[:i], "")) for i in range(waits + 1)]
    assert replies(dialogue) == asked
    assert outcome.stopped_by is None


async def test_short_thinking_goes_on_until_it_is_long_enough() -> None:
    dialogue = Dialogue(*TRIES)  # 3 tokens, 6, 9
    bench = Bench(dialogue.engine)
    outcome = await bench.run(BudgetForcing(waits=0, min_thinking=7))
    assert outcome.choices[0].text == "\n\nWait".join(TRIES[:3])
    assert spent(bench) == (9, 3)


async def test_thinking_that_never_grows_is_let_go() -> None:
    bench = Bench(ScriptedEngine(lambda prompt, *_: "" if prompt.reply else "hm"))
    outcome = await bench.run(BudgetForcing(min_thinking=30))
    assert outcome.choices[0].text == "hm" + "\n\nWait" * MOST_WAITS
    assert spent(bench) == (1, MOST_WAITS + 1)


async def test_thinking_is_cut_at_its_limit_and_the_answer_is_asked_for() -> None:
    dialogue = Dialogue(WORDS, " \\boxed{42} is it")
    bench = Bench(dialogue.engine)
    outcome = await bench.run(BudgetForcing(max_thinking=10))
    thought = " ".join(f"w{i}" for i in range(10))
    assert replies(dialogue)[1] == f"{thought}\n\nFinal Answer:"
    assert outcome.choices[0].text == f"{thought}\n\nFinal Answer: \\boxed{{42}} is it"
    assert (outcome.answer, outcome.choices[0].finish_reason) == ("42", "stop")
    assert spent(bench) == (13, 2)


@pytest.mark.parametrize(("cap", "thinking"), [(40, 30), (41, 31), (1, 1)])
async def test_a_quarter_of_the_reply_is_left_for_the_answer(cap: int, thinking: int) -> None:
    bench = Bench(Dialogue(WORDS, WORDS).engine, sampling=Sampling(cap))
    outcome = await bench.run(BudgetForcing())
    (choice,) = outcome.choices
    assert (choice.tokens, choice.finish_reason) == (cap, "length")
    assert len(choice.text.partition("\n\nFinal Answer:")[0].split()) == thinking


async def test_no_wait_is_put_in_where_no_thinking_could_follow() -> None:
    bench = Bench(Dialogue(*TRIES).engine)
    outcome = await bench.run(BudgetForcing(max_thinking=6))
    # 3 tokens, wait, 3 more: that is the limit, and the reply has ended
    assert outcome.choices[0].text == "\n\nWait".join(TRIES[:2])
    assert spent(bench) == (6, 2)


async def test_a_mark_is_taken_out_for_the_wait_and_the_answer_follows_the_last() -> None:
    dialogue = Dialogue("<think>one two</think> \\boxed{1}", " three</think> \\boxed{42}")
    bench = Bench(dialogue.engine)
    outcome = await bench.run(BudgetForcing(waits=1, end_of_thinking="</think>"))
    assert replies(dialogue) == ["", "<think>one two\n\nWait"]
    assert outcome.choices[0].text == "<think>one two\n\nWait three</think> \\boxed{42}"
    assert outcome.answer == "42"
    assert spent(bench) == (4, 3)  # two of each, the box of the first was never drawn


async def test_a_mark_is_taken_out_by_its_tokens() -> None:
    engine = ScriptedEngine(lambda *_: "<think>one two </think> \\boxed{1}")
    bench = Bench(engine)
    (thought,) = await bench.session.extend(bench.session.blank(1), ["</think>"])

    async def tokenize(text: str) -> tuple[int, ...]:
        return thought.token_ids[-1:] if text == " </think>" else (7, 8)

    engine.tokenize = tokenize  # type: ignore[method-assign]
    (opened,) = await bench.session.append([thought], " Wait", instead_of=" </think>")
    assert (opened.text, opened.tokens) == ("<think>one two Wait", 3)
    assert opened.token_ids == (*thought.token_ids[:-1], 7, 8)
    (anew,) = await bench.session.append([thought], " Wait", instead_of="</think>")
    assert (anew.text, anew.token_ids) == ("<think>one two  Wait", (7, 8, 7, 8))
    (kept,) = await bench.session.append([thought], " Wait", instead_of="</other>")
    assert (kept.text, kept.token_ids) == (thought.text + " Wait", (*thought.token_ids, 7, 8))


async def test_a_cut_thought_is_closed_by_its_mark() -> None:
    dialogue = Dialogue(f"<think>{WORDS}", " \\boxed{42}")
    bench = Bench(dialogue.engine)
    outcome = await bench.run(BudgetForcing(max_thinking=2, end_of_thinking="</think>"))
    whole = "<think>w0 w1\n\n</think>\n\nFinal Answer: \\boxed{42}"
    assert (outcome.choices[0].text, outcome.answer) == (whole, "42")
    assert spent(bench) == (3, 2)


async def test_where_the_client_ends_the_reply_nothing_is_put_in() -> None:
    bench = Bench(Dialogue("one END two").engine, sampling=Sampling(64, stop=("END",)))
    outcome = await bench.run(BudgetForcing())
    assert outcome.choices[0].text == "one "
    assert outcome.choices[0].finish_reason == "stop"


async def test_the_budget_cuts_the_thinking_in_time_for_an_answer() -> None:
    # 20 tokens: a quarter is kept, so 15 are thought.
    bench = Bench(Dialogue(WORDS, " \\boxed{42}").engine, Budget(20, 9, 60.0))
    outcome = await bench.run(BudgetForcing())
    assert (outcome.answer, outcome.stopped_by) == ("42", "tokens")
    assert spent(bench) == (16, 2)


async def test_a_last_call_is_not_spent_on_waiting() -> None:
    bench = Bench(Dialogue(*TRIES).engine, Budget(1_000, 3, 60.0))
    outcome = await bench.run(BudgetForcing())
    assert (outcome.answer, outcome.stopped_by) == ("41", "calls")


async def test_an_engine_without_token_ids_goes_on_from_text() -> None:
    dialogue = Dialogue("one two</think> \\boxed{1}", " three</think>", " \\boxed{42}")
    engine = TextOnly(dialogue._next)
    bench = Bench(engine)
    outcome = await bench.run(BudgetForcing(waits=1, end_of_thinking="</think>"))
    assert replies(dialogue) == ["", "one two\n\nWait", "one two\n\nWait three</think>"]
    assert outcome.choices[0].text == "one two\n\nWait three</think> \\boxed{42}"
    assert outcome.choices[0].token_ids == ()
    assert spent(bench) == (4, 3)


async def test_each_answer_is_forced_by_itself_and_a_seed_repeats_it() -> None:
    async def once() -> list[tuple[str, str]]:
        bench = Bench(n=3, sampling=Sampling(400, seed=5, logprobs=0))
        outcome = await bench.run(BudgetForcing(waits=1))
        assert all(each.text.count("\n\nWait") == 1 for each in outcome.choices)
        spent(bench)
        return [(each.id, each.text) for each in outcome.choices]

    drawn = await once()
    assert len({text for _, text in drawn}) == 3
    assert await once() == drawn


@pytest.mark.parametrize("n", [1, 2])
async def test_only_the_answer_streams(n: int) -> None:
    bench = Bench(ScriptedEngine(lambda prompt, *_: " \\boxed{42}" if prompt.reply else WORDS), n=n)
    heard: dict[int, list[str]] = {}
    bench.events.subscribe(
        lambda item: (
            heard.setdefault(item.index, []).append(item.candidate.text)
            if isinstance(item, Answer)
            else None
        )
    )
    outcome = await bench.run(BudgetForcing(max_thinking=5))
    assert sorted(heard) == list(range(n))
    for index, choice in enumerate(outcome.choices):
        assert heard[index][-1] == choice.text
        assert all("Final Answer:" in text for text in heard[index])


async def test_a_format_rules_only_what_is_written_last() -> None:
    def script(prompt: Prompt, _sampling: Sampling, _index: int) -> str:
        if prompt.response_format is not None:
            return json.dumps({"said": prompt.messages[-2]["content"]})
        return " again" if prompt.reply else "once"

    form = {"type": "json_object"}
    bench = Bench(ScriptedEngine(script), prompt=Prompt(QUESTION, response_format=form))
    outcome = await bench.run(BudgetForcing(waits=1))
    assert json.loads(outcome.choices[0].text) == {"said": "once\n\nWait again"}
