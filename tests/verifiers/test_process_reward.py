"""The process reward model on an engine whose opinions are known: values, cost, what is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.beam import Beam
from strategies.best_of_n import BestOfN
from strategies.budget import Budget, Stage
from tests.strategies.harness import Bench
from tests.strategies.tree_engine import TreeEngine, last_step
from tests.verifiers.label_engine import LabelEngine
from verifiers.aggregation import Aggregation
from verifiers.process_reward import ProcessReward
from verifiers.types import (
    UNSCORED,
    Candidate,
    Capabilities,
    Continuation,
    Prompt,
    Reply,
    TokenLogprob,
)

TEXT = "One step.\n\nAnother.\n\nSo \\boxed{42}"
MASSES: Mapping[int, Mapping[str, float]] = {
    1: {"+": 0.6, "-": 0.2},
    2: {" +": 0.2, "-": 0.2, "- ": 0.1, "?": 0.4},
    3: {"+": 0.45, "-": 0.05, "=": 0.5},
}
STEPS = (0.75, 0.4, 0.9)


def reply(prompt: Prompt) -> Reply:
    assert prompt.reply is not None
    return prompt.reply


def by_step(prompt: Prompt) -> Mapping[str, float]:
    """Judge by how many steps there are: each has a full stop or a box."""
    text = reply(prompt).text
    return MASSES[text.count(".\n\n") + text.count("}")]


def bench(chances: Any = by_step, text: str = TEXT, **options: Any) -> tuple[Bench, LabelEngine]:
    given = {name: options.pop(name) for name in ("budget", "n") if name in options}
    engine = LabelEngine(chances, lambda *_: text)
    return Bench(engine, verifier=ProcessReward(**options), **given), engine


async def drawn(given: Bench) -> Candidate:
    (candidate,) = await given.session.sample(1)
    return candidate


@pytest.mark.parametrize(
    ("how", "score"),
    [("last", 0.9), ("min", 0.4), ("product", 0.27), ("mean", 2.05 / 3), ("max", 0.9)],
)
async def test_steps_are_label_shares_and_make_the_score(how: Aggregation, score: float) -> None:
    given, _ = bench(aggregation=how)
    (scored,) = await given.session.score([await drawn(given)])
    assert scored.steps == pytest.approx(STEPS)
    assert scored.score == pytest.approx(score)


async def test_a_step_is_judged_after_the_reply_s_own_tokens() -> None:
    given, engine = bench()
    candidate = await drawn(given)
    await given.session.score([candidate])
    one, two, three = map(reply, engine.asked)
    assert [one.text, two.text] == ["One step.\n\n", "One step.\n\nAnother.\n\n"]
    for prefix in (one, two):  # they end with the mark already
        assert prefix.token_ids == candidate.token_ids[: len(prefix.token_ids)]
    assert three.text == f"{TEXT}\n\n"
    assert three.token_ids == (*candidate.token_ids, *await engine.tokenize("\n\n"))
    assert all(each.messages == given.prompt.messages for each in engine.asked)


async def test_a_token_that_spans_a_separator_is_taken_whole() -> None:
    given, engine = bench(mark=" ки")
    pieces, text = ("One", ".\n\n\n", "So", " \\boxed{1}"), "One.\n\n\nSo \\boxed{1}"
    entries = tuple(TokenLogprob(piece, -1.0) for piece in pieces)
    await given.session.score([Candidate("9", text, (5, 6, 7, 8), logprobs=entries)])
    mark = await engine.tokenize(" ки")
    assert list(map(reply, engine.asked)) == [
        Reply("One.\n\n\n ки", (5, 6, *mark)),
        Reply(f"{text} ки", (5, 6, 7, 8, *mark)),
    ]


@pytest.mark.parametrize(
    ("mark", "separator", "texts"),
    [
        (" ки", "\n", ["1. ки", "1. ки\n2. ки", "1. ки\n2. ки\n3. ки"]),
        ("\n\n", "\n\n", ["1.\n\n", "1.\n\n2.\n\n", "1.\n\n2.\n\n3.\n\n"]),
    ],
)
async def test_marks_are_kept_before_the_separators(
    mark: str, separator: str, texts: list[str]
) -> None:
    given, engine = bench(lambda _: {"+": 1.0}, mark=mark, separator=separator, keep_marks=True)
    await given.session.score([Candidate("9", separator.join(("1.", "2.", "3.")))])
    assert list(map(reply, engine.asked)) == [Reply(text) for text in texts]


async def test_only_new_steps_are_asked_about() -> None:
    given, engine = bench(lambda prompt: {"+": 0.5 + len(reply(prompt).text) / 100, "-": 0.1})
    session = given.session
    one = Candidate("1", "One.\n\n")
    (first,) = await session.score([one])
    assert len(engine.asked) == 1
    left, right = session.branch([first], [2])
    grown = [replace(left, text="One.\n\nTwo.\n\n"), replace(right, text="One.\n\nThree.\n\n")]
    scored = await session.score(grown)
    assert [reply(each).text for each in engine.asked[1:]] == [each.text for each in grown]
    assert all(each.steps[:1] == first.steps and len(each.steps) == 2 for each in scored)
    await session.score(scored)
    assert len(engine.asked) == 3
    judged = given.ledger.usage[Stage.VERIFY]
    assert (judged.calls, judged.completion_tokens) == (3, 3)


async def test_a_text_that_changed_or_answers_another_prompt_is_asked_about_anew() -> None:
    given, engine = bench(lambda prompt: {"+": 0.9, "-": 0.1})
    one = Candidate("1", "One.\n\nTwo.")
    (scored,) = await given.session.score([one])
    await given.session.score([replace(scored, text="Eins.\n\nTwo.")])
    assert len(engine.asked) == 4
    other = given.session.fork([{"role": "user", "content": "And 7 times 8?"}])
    await other.score([replace(one, id="2")])
    assert len(engine.asked) == 6
    assert engine.asked[-1].messages == other.prompt.messages


async def test_labels_that_are_hardly_there_are_an_abstention() -> None:
    masses = [{"+": 0.5}, {"+": 0.04, "-": 0.05, "?": 0.9}]
    given, _ = bench(lambda prompt: masses[reply(prompt).text.count("Two")])
    one, two = Candidate("1", "One."), Candidate("2", "One.\n\nTwo.")
    scored = await given.session.score([one, two])
    assert [(each.score, each.steps) for each in scored] == [(1.0, (1.0,)), (UNSCORED, ())]
    low, _ = bench(lambda prompt: masses[reply(prompt).text.count("Two")], least_mass=0.01)
    assert (await low.session.score([two]))[0].score == pytest.approx(4 / 9)


async def test_what_the_budget_cannot_pay_is_an_abstention() -> None:
    given, engine = bench(lambda _: {"+": 1.0}, budget=Budget(100, 3, 60.0))
    both = [Candidate("1", "One.\n\nTwo."), Candidate("2", "Eins.\n\nZwei.")]
    scored = await given.session.score(both)
    assert [each.score for each in scored] == [1.0, UNSCORED]
    assert len(engine.asked) == 3
    assert given.at_rest()


async def test_a_reply_of_many_steps_costs_what_was_announced() -> None:
    given, engine = bench(lambda _: {"+": 1.0}, max_steps=3)
    text = "\n\n".join(f"{number}." for number in range(9))
    await given.session.score([Candidate("1", text)])
    texts = ["0.\n\n", "0.\n\n1.\n\n", f"{text}\n\n"]
    assert [reply(each).text for each in engine.asked] == texts
    assert given.verifier is not None
    assert given.verifier.calls == given.verifier.max_tokens == len(engine.asked)


async def test_nothing_said_is_an_abstention_and_free() -> None:
    given, engine = bench()
    (scored,) = await given.session.score([Candidate("1", " \n\n")])
    assert (scored.score, engine.asked) == (UNSCORED, [])


async def test_best_of_n_returns_the_reply_whose_steps_are_right() -> None:
    judge = LabelEngine(
        lambda prompt: {"+": 0.8, "-": 0.1} if "7" in reply(prompt).text else {"-": 0.6}
    )
    policy = ScriptedEngine(lambda _, sampling, index: f"Step.\n\nIs {sampling.first + index + 5}")
    given = Bench(policy, verifier=ProcessReward(engine="judge"), others={"judge": judge})
    outcome = await given.run(BestOfN(n=4))
    assert outcome.choices[0].text == "Step.\n\nIs 7"
    assert outcome.choices[0].steps == pytest.approx((0.0, 8 / 9))
    assert len(judge.asked) == 5  # the first step of all is one question


async def test_another_engine_judges_by_text_with_its_adapter() -> None:
    other = LabelEngine(by_step)
    verifier = ProcessReward(engine="small", adapter="prm")
    given = Bench(ScriptedEngine(lambda *_: TEXT), verifier=verifier, others={"small": other})
    (scored,) = await given.session.score([await drawn(given)])
    assert scored.steps == pytest.approx(STEPS)
    assert {each.adapter for each in other.asked} == {"prm"}
    assert all(reply(each).token_ids == () for each in other.asked)


async def test_beam_search_is_led_by_it_within_the_default_budget() -> None:
    good = {"A": 0.2, "AA": 0.01, "AB": 0.01, "B": 0.9, "BA": 0.01, "BB": 0.8}
    tree = {"": "AB", "A": ["AA", "AB"], "B": ["BA", "BB"], "BB": ["C", "D"]}
    policy = TreeEngine(tree, {"C": "42", "D": "42"})
    judge = LabelEngine(
        lambda prompt: {"+": good.get(last_step(reply(prompt).text), 0.5), "-": 0.1}
    )
    given = Bench(
        policy,
        Budget(),
        verifier=ProcessReward(engine="judge"),
        others={"judge": judge},
    )
    outcome = await given.run(Beam(n=4, width=2))
    assert outcome.choices[0].text.split("\n\n")[:2] == ["B", "BB"]
    asked = [reply(each).text for each in judge.asked]
    assert len(asked) == len(set(asked))
    assert outcome.stopped_by is None


def test_it_needs_alternatives_inside_a_reply() -> None:
    able = Capabilities(100, Continuation.TEXT, logprobs=20, adapters=("prm",))
    assert ProcessReward(adapter="prm").unavailable(able, able) is None
    assert "adapter" in str(ProcessReward(adapter="orm").unavailable(able, able))
    blind = replace(able, logprobs=0)
    assert "alternatives" in str(ProcessReward().unavailable(able, blind))
    assert ProcessReward(engine="small").unavailable(blind, able) is None
    closed = replace(able, continuation=Continuation.NONE)
    assert "go on" in str(ProcessReward().unavailable(able, closed))
