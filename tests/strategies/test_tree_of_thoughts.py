"""Tree of Thoughts on tables worked out by hand: who survives, who is asked, what ends it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydantic import ValidationError

from strategies.admission import Admission
from strategies.base import Need
from strategies.budget import Budget, Stage
from strategies.events import Answer, Event
from strategies.thought_search import ANSWER, PROPOSE, VALUE
from strategies.tree_of_thoughts import TreeOfThoughts
from tests.strategies import conformance
from tests.strategies.dialogue import LOOKUP
from tests.strategies.harness import QUESTION, Bench
from tests.strategies.thinker import Thinker, thinking
from tests.strategies.trees import Marks
from verifiers.errors import EngineError
from verifiers.types import Prompt, Sampling

FOLLOWS = {"": ["a", "b", "c"], "a": ["a1"], "b": ["b1"], "c": ["c1", "c2"]}
VALUES = {
    "a": ["sure", "impossible"],  # 10.0005
    "b": ["likely"],  # 1
    "c": ["sure"],  # 20
    "a a1": ["sure", "who knows"],  # 20: what cannot be read abstains
    "b b1": ["sure"],
    "c c1": ["likely"],  # 1
    "c c2": ["impossible"],  # .001
}


async def test_the_best_of_each_level_go_on() -> None:
    engine = Thinker(FOLLOWS, VALUES)
    strategy = thinking(breadth=2, depth=2, proposals=3, evaluations=2)
    bench = Bench(engine)
    outcome = await bench.run(strategy)
    assert engine.heard("propose") == ["", "c", "a"]
    # each twice; the children of the better parent first
    assert engine.heard("value")[::2] == ["a", "b", "c", "c c1", "c c2", "a a1"]
    assert engine.heard("answer") == ["a a1"]
    assert outcome.answer == "a a1"
    assert [each.text for each in outcome.candidates] == ["by a a1 \\boxed{a a1}"]
    assert strategy.samples(1) == (1 + 2) * (1 + 3 * 2) + 1
    assert bench.ledger.total.calls == 3 + 12 + 1
    assert bench.ledger.total.completion_tokens == engine.log["tokens"]


async def test_states_are_ordered_by_value_and_then_as_they_were_found() -> None:
    engine = Thinker(FOLLOWS, VALUES)
    session = Bench(engine).session
    strategy = thinking(breadth=4, depth=2, proposals=3, evaluations=2)
    states = await strategy.breadth_first(session)
    # a a1 and b b1 are both worth 20, and a comes before b on the first level
    assert states == [("a", "a1"), ("b", "b1"), ("c", "c1"), ("c", "c2")]


async def test_an_unreadable_state_comes_after_an_impossible_one() -> None:
    values = {"a": ["hm", "I am not sure"], "b": ["impossible"]}
    engine = Thinker({"": ["a", "b"]}, values)
    states = await thinking(depth=1).breadth_first(Bench(engine).session)
    assert states == [("b",), ("a",)]


async def test_equal_thoughts_are_one_and_the_first_of_a_long_list_count() -> None:
    engine = Thinker({"": ["a", "1. a", "b", "c"]}, VALUES)
    await thinking(depth=1, proposals=2, evaluations=1).breadth_first(Bench(engine).session)
    assert engine.heard("value") == ["a", "b"]


async def test_prompts_that_read_the_same_are_valued_once() -> None:
    follows = {"": ["a", "b"], "a": ["x", "y"], "b": ["x", "z"], "a x": ["y"]}
    engine = Thinker(follows, dict.fromkeys("abxyz", ("likely",)))
    strategy = thinking(value="value: |{last}", evaluations=1)
    await strategy.breadth_first(Bench(engine).session)
    # (a, x) and (b, x) are one on level 2, (a, x, y) was known from (a, y) on level 3
    assert engine.heard("value") == ["a", "b", "x", "y", "z"]


async def test_a_chain_that_has_ended_keeps_its_place_and_costs_nothing_more() -> None:
    engine = Thinker({"": ["a", "b"], "b": ["b1"]}, VALUES)
    states = await thinking(depth=9, evaluations=1).breadth_first(Bench(engine).session)
    assert states == [("a",), ("b", "b1")]  # both worth 20, a was found first
    assert engine.heard("propose") == ["", "a", "b", "b b1"]
    assert engine.heard("value") == ["a", "b", "b b1"]


async def test_samples_are_thoughts_of_their_own() -> None:
    engine = Thinker({"": ["plan\none", "plan two"]}, {"plan one": ["sure"], "plan two": ["?"]})
    strategy = thinking(generate="sample", proposals=3, depth=1, evaluations=1)
    states = await strategy.breadth_first(Bench(engine).session)
    assert states == [("plan\none",), ("plan two",)]
    assert len(engine.heard("sample")) == 3
    assert strategy.samples(1) == 3 + 3 + 1


async def test_votes_are_counted_over_all_states_of_a_level() -> None:
    votes = ["The best choice is 2", "best choice is Choice 3.", "2", "The best choice is 9", "?"]
    engine = Thinker(FOLLOWS, votes=votes)
    strategy = thinking(evaluate="vote", evaluations=5, depth=1)
    states = await strategy.breadth_first(Bench(engine).session)
    assert states == [("b",), ("c",), ("a",)]
    asked = engine.prompts["vote"].messages[-1]["content"]
    listing = "Choice 1:\na\n\nChoice 2:\nb\n\nChoice 3:\nc"
    assert asked == f"vote: What is 6 times 7?|{listing}"
    assert strategy.samples(1) == 1 + 5 + 1


async def test_a_verifier_scores_the_thoughts_as_a_reply() -> None:
    engine = Thinker(FOLLOWS)
    scores = {"a": 0.2, "b": 0.9, "c": 0.4, "b b1": 0.3, "c c1": 0.5}
    bench = Bench(engine, verifier=Marks(scores=scores))
    strategy = thinking(evaluate="verifier", breadth=2, depth=2, evaluations=9)
    outcome = await bench.run(strategy)
    assert outcome.answer == "c c1"  # c2 has no score
    assert bench.ledger.usage[Stage.VERIFY].calls == 3 + 3
    assert strategy.required() == {Need.SCORES, Need.STEP_SCORES}
    assert thinking().required() == frozenset()


async def test_depth_first_goes_back_where_nothing_is_above_the_threshold() -> None:
    values = {
        **VALUES,
        "c c1": ["impossible"],
        "a a1": ["impossible", "likely"],  # .5005, just above
        "a a1 a2": ["who knows"],
        "b b1": ["sure"],
    }
    engine = Thinker({**FOLLOWS, "a a1": ["a2"], "b b1": ["b2"]}, values)
    strategy = thinking(search="dfs", evaluations=2)
    bench = Bench(engine)
    outcome = await bench.run(strategy)
    assert engine.heard("propose") == ["", "c", "a", "a a1", "b", "b b1"]
    # b2 is not in the table: its value says DONE, so no chain of 3; b b1 is the deepest, best one
    assert outcome.answer == "b b1"


async def test_depth_first_ends_with_a_chain_for_each_answer() -> None:
    for n, visited in ((1, ["", "c"]), (2, ["", "c", "a"]), (3, ["", "c", "a", "b"])):
        engine = Thinker(FOLLOWS, VALUES)
        bench = Bench(engine, n=n)
        outcome = await bench.run(thinking(search="dfs", depth=2, evaluations=2))
        assert engine.heard("propose") == visited
        chains = [["c c1"], ["a a1", "c c1"], ["a a1", "b b1", "c c1"]][n - 1]
        assert [each.text.split(" \\")[0] for each in outcome.choices] == [
            f"by {chain}" for chain in chains
        ]


async def test_depth_first_goes_on_from_so_many_states() -> None:
    engine = Thinker(FOLLOWS, VALUES)
    states = await thinking(search="dfs", max_states=2).depth_first(Bench(engine).session)
    assert engine.heard("propose") == ["", "c"]
    assert states[0] == ("c", "c1")
    assert thinking(search="dfs", max_states=2).samples(1) == 2 * (1 + 5 * 3) + 1


async def test_without_a_state_above_the_threshold_the_question_itself_is_answered() -> None:
    engine = Thinker(FOLLOWS, dict.fromkeys("abc", ("impossible",)))
    outcome = await Bench(engine).run(thinking(search="dfs"))
    assert engine.asked[-1] == "plain "
    assert outcome.answer == "none"


async def test_a_chain_that_ends_itself_ends_a_depth_first_search() -> None:
    engine = Thinker({"": ["c"], "c": ["DONE"]}, VALUES)
    outcome = await Bench(engine).run(thinking(search="dfs"))
    assert outcome.answer == "c"


@pytest.mark.parametrize("search", ["bfs", "dfs"])
async def test_several_answers_come_from_the_best_states_in_turn(search: str) -> None:
    engine = Thinker({"": ["a", "b"]}, VALUES)
    bench = Bench(engine, n=3)
    outcome = await bench.run(thinking(search=search, depth=1, evaluations=2))
    assert sorted(engine.heard("answer")) == ["a", "a", "b"]
    assert [each.text[3] for each in outcome.choices] == ["a", "a", "b"]


async def test_the_answer_streams_and_only_it_has_tools_and_format() -> None:
    prompt = Prompt(QUESTION, tools=(LOOKUP,), response_format={"type": "json_object"})
    engine = Thinker(FOLLOWS, VALUES)
    engine.tell = lambda state: f'{{"state": "{state}"}}'
    sampling = Sampling(64, temperature=0.1, stop=("likely",), logprobs=0)
    bench = Bench(engine, prompt=prompt, sampling=sampling)
    heard: list[str] = []

    def follow(item: Event | Answer) -> None:
        if isinstance(item, Answer):
            heard.append(item.candidate.text)

    bench.events.subscribe(follow)
    await bench.run(thinking(breadth=2, depth=2, evaluations=2))
    assert heard[-1] == '{"state": "a a1"}'
    assert heard[0] == '{"state":'
    kinds = {kind: (each.tools, each.response_format) for kind, each in engine.prompts.items()}
    assert kinds.pop("answer") == ((LOOKUP,), {"type": "json_object"})
    assert set(kinds.values()) == {((), None)}
    drawn = {kind: (each.temperature, each.stop) for kind, each in engine.samplings.items()}
    assert drawn == {"propose": (0.7, ()), "value": (0.7, ()), "answer": (0.1, ("likely",))}


CALLS = [
    (1, "none"),  # the one call is kept for the answer
    (2, "a"),  # proposed, none valued: the first one
    (3, "a"),  # a was valued: 1 sample
    (8, "c"),  # the first level: 1 + 3 · 2, and the answer
    (10, "c c1"),  # two more for the proposals of c and a, none of what they say can be valued
    (16, "a a1"),
]


@pytest.mark.parametrize(("calls", "answer"), CALLS)
async def test_whatever_the_calls_the_best_state_answers(calls: int, answer: str) -> None:
    bench = Bench(Thinker(FOLLOWS, VALUES), Budget(100_000, calls, 60.0))
    outcome = await bench.run(thinking(breadth=2, depth=2, proposals=3, evaluations=2))
    assert (outcome.answer, outcome.stopped_by) == (answer, "calls" if calls < 16 else None)
    assert bench.ledger.total.calls == calls


async def test_a_quarter_of_the_tokens_is_kept_for_the_answer() -> None:
    engine = Thinker(FOLLOWS, dict.fromkeys("abc", ("so " * 500 + "\nsure",)))
    engine.tell = lambda state: "word " * 30
    bench = Bench(engine, Budget(100, 100, 60.0), sampling=Sampling(64, logprobs=0))
    outcome = await bench.run(thinking(thought_tokens=8_000))
    assert outcome.stopped_by == "tokens"
    assert outcome.choices[0].tokens == 25
    assert bench.ledger.total.completion_tokens == 100
    assert bench.at_rest()


async def test_a_quarter_of_the_time_is_kept_for_the_answer() -> None:
    slow = dict.fromkeys("abc", ("so " * 500 + "\nsure",))
    bench = Bench(Thinker(FOLLOWS, slow, delay=0.01), Budget(100_000, 100, 1.5))
    bench.session._sampling = Sampling(1_000)
    outcome = await bench.run(thinking(thought_tokens=8_000))
    assert (outcome.choices[0].done, outcome.answer, outcome.stopped_by) == (True, "a", "deadline")
    assert bench.at_rest()


async def test_a_lost_call_costs_only_what_it_would_have_said() -> None:
    places = iter(range(100))
    engine = Thinker(FOLLOWS, VALUES)
    engine.fail = lambda _prompt, _index: EngineError("lost") if next(places) == 5 else None
    states = await thinking(depth=1, evaluations=2).breadth_first(Bench(engine).session)
    assert states == [("c",), ("a",), ("b",)]
    assert engine.log["failed"] == 1


VARIANTS: dict[str, dict[str, Any]] = {
    "dfs": {"search": "dfs", "max_states": 6},
    "parallel": {"search": "dfs", "parallel": 3, "threshold": 0.0, "max_states": 9},
    "sample": {"generate": "sample", "evaluate": "vote", "proposals": 3},
    "verifier": {"evaluate": "verifier"},
}


@pytest.mark.parametrize("given", VARIANTS.values(), ids=VARIANTS)
async def test_the_variants_conform(given: dict[str, Any]) -> None:
    strategy, rng = TreeOfThoughts(**given), random.Random(3)
    await conformance.check_ledger(strategy)
    await conformance.check_close(strategy, rng)
    for seed in range(3):
        await conformance.check_seed(strategy, seed)
        await conformance.check_cancel(strategy, rng)
    for _ in range(40):
        await conformance.check_budget(strategy, rng)


@pytest.mark.parametrize("search", ["bfs", "dfs"])
async def test_a_seed_gives_the_same_whatever_the_load(search: str) -> None:
    async def once(slots: int, delay: float) -> object:
        follows = {"": ["a", "b", "c"], "a": ["a1"], "b": ["b1", "b2"], "c": ["c1"]}
        values = dict.fromkeys(["a", "b", "c", "b b2"], ("likely",))
        engine = Thinker(follows, values, delay=delay)
        bench = Bench(
            engine, admission=Admission(slots), sampling=Sampling(64, seed=5, logprobs=0), n=2
        )
        outcome = await bench.run(thinking(search=search, parallel=3, depth=2))
        return outcome.choices, sorted(engine.asked)

    assert await once(64, 0.0) == await once(2, 0.001)


async def test_what_a_model_says_is_put_into_prompts_literally() -> None:
    engine = Thinker({"": ["{question} {end} {thoughts}"]})
    states = await thinking(depth=1).breadth_first(Bench(engine).session)
    assert states == [("{question} {end} {thoughts}",)]
    assert engine.heard("value")[0] == "{question} {end} {thoughts}"


def test_the_worst_case_counts_thoughts_shorter_than_answers() -> None:
    # bfs: 1 + 5 + 5 states gone on from, each by a list of 5 that are valued 3 times
    asked = 11 * (1 + 5 * 3)
    assert TreeOfThoughts().samples(2) == asked + 2
    worst = TreeOfThoughts().worst_case(2, 1_000, None, Budget(10**6, 10**6))
    assert worst == (asked + 2, asked * 256 + 2 * 1_000)
    assert TreeOfThoughts(generate="sample").samples(1) == 11 * (5 + 5 * 3) + 1
    assert TreeOfThoughts(evaluate="vote").samples(1) == 11 + 3 * 3 + 1
    assert TreeOfThoughts(evaluate="verifier").samples(1) == 11 * (1 + 5) + 1


def test_prompts_must_show_the_question_and_the_thoughts() -> None:
    with pytest.raises(ValidationError, match=r"lacks \{question\}"):
        TreeOfThoughts(propose="{thoughts}")
    with pytest.raises(ValidationError, match=r"lacks \{thoughts\} or \{last\}"):
        TreeOfThoughts(value="{question}")
    with pytest.raises(ValidationError, match=r"lacks \{choices\}"):
        TreeOfThoughts(vote="{question}")
    assert TreeOfThoughts(value="{last}").value == "{last}"


def test_what_all_prompts_share_comes_first() -> None:
    assert all(each.startswith("{question}\n\n---\n") for each in (PROPOSE, VALUE, ANSWER))
