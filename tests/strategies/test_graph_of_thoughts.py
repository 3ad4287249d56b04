"""Graph of Thoughts on dialogues worked out by hand: the plan's order, what prompts hold, ends."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydantic import ValidationError

from strategies.base import Need
from strategies.budget import Budget, Stage
from strategies.graph_of_thoughts import AGGREGATE, FEEDBACK, GRADE, REFINE, GraphOfThoughts
from strategies.thought_plan import PLAN
from tests.strategies import conformance
from tests.strategies.dialogue import LOOKUP, Dialogue
from tests.strategies.harness import QUESTION, Bench
from tests.strategies.trees import Marks
from verifiers.errors import EngineError
from verifiers.types import Message, Prompt, Sampling

ASKED = ("user", "What is 6 times 7?")
SCORES = {"one": 0.1, "two": 0.8, "three": 0.3, "four": 0.9, "merged": 0.5, "better": 0.6}
REPLIES = ("one", "two", "three", "four", "merged", "mend it", "better")


def merging(*answers: str) -> tuple[str, str]:
    shown = "\n\n".join(f"Answer {i}:\n{answer}" for i, answer in enumerate(answers, 1))
    return ("user", AGGREGATE.format(question=ASKED[1], thoughts=shown))


async def test_the_plan_is_followed_in_its_order() -> None:
    dialogue = Dialogue(*REPLIES)
    bench = Bench(dialogue.engine, verifier=Marks(scores=SCORES))
    strategy = GraphOfThoughts()
    outcome = await bench.run(strategy)
    told = [("assistant", "merged"), ("user", FEEDBACK), ("assistant", "mend it"), ("user", REFINE)]
    assert (
        [dialogue.asked(call) for call in range(7)]
        == [
            *[[ASKED]] * 4,
            [merging("four", "two")],  # the best two, the better one first
            [ASKED, *told[:2]],
            [ASKED, *told],
        ]
    )
    assert [each.text for each in outcome.choices] == ["better"]
    assert strategy.samples(1) == 4 + 1 + 2 == bench.ledger.usage[Stage.SAMPLE].calls
    assert bench.ledger.usage[Stage.VERIFY].calls == 4 + 2
    assert dialogue.temperatures == [0.8] * 7
    assert bench.ledger.total.completion_tokens == dialogue.engine.log["tokens"]


async def test_other_answers_are_the_rest_of_the_graph_best_first() -> None:
    bench = Bench(Dialogue(*REPLIES).engine, verifier=Marks(scores=SCORES), n=9)
    outcome = await bench.run(GraphOfThoughts())
    texts = [each.text for each in outcome.choices]
    assert texts == ["better", "four", "two", "merged", "three", "one"]
    assert GraphOfThoughts().choices(1) == 6


async def test_what_was_made_of_others_tells_its_parent() -> None:
    bench = Bench(Dialogue(*REPLIES).engine, verifier=Marks(scores=SCORES))
    await bench.run(GraphOfThoughts())
    made = {each.text: each for each in bench.request.produced.values()}
    assert made["one"].parent is None
    assert made["merged"].parent == made["four"].id
    assert made["better"].parent == made["merged"].id
    sampled = [e.data for e in bench.events.events if e.kind == "sampled"]
    assert sampled[-1]["parent"] == made["merged"].id


async def test_a_refinement_that_spoils_the_answer_loses() -> None:
    scores = {**SCORES, "better": 0.4}
    outcome = await Bench(Dialogue(*REPLIES).engine, verifier=Marks(scores=scores)).run(
        GraphOfThoughts()
    )
    assert outcome.choices[0].text == "merged"


async def test_keep_says_who_goes_on() -> None:
    plan = [
        {"op": "generate", "k": 2},
        {"op": "aggregate", "keep": True},
        {"op": "refine", "keep": False},
    ]
    replies = ("one", "two", "merged", "f", "f", "f", "merged 2", "one 2", "two 2")
    dialogue = Dialogue(*replies)
    strategy = GraphOfThoughts(plan=plan)
    bench = Bench(dialogue.engine, n=9)
    outcome = await bench.run(strategy)
    assert dialogue.asked(2) == [merging("one", "two")]
    assert {each.text for each in outcome.choices[:3]} == {"merged 2", "one 2", "two 2"}
    assert {each.text for each in outcome.choices[3:]} == {"merged", "one", "two"}
    assert strategy.samples(1) == len(dialogue.prompts) == 2 + 1 + 3 * 2
    assert strategy.choices(1) == 6


async def test_the_model_can_grade_itself() -> None:
    plan = [{"op": "generate", "k": 2}, {"op": "score"}, {"op": "score"}, {"op": "keep_best"}]
    dialogue = Dialogue("one", "two", "Grade: 4", "no idea", "good\n3", "6/10")
    strategy = GraphOfThoughts(plan=plan, evaluate="self", evaluations=2)
    bench = Bench(dialogue.engine, verifier=None)
    outcome = await bench.run(strategy)
    assert dialogue.asked(2) == [ASKED, ("assistant", "one"), ("user", GRADE)]
    assert dialogue.asked(5) == [ASKED, ("assistant", "two"), ("user", GRADE)]
    assert len(dialogue.prompts) == 6  # what has a grade is not graded again
    assert (outcome.choices[0].text, outcome.choices[0].score) == ("two", 0.45)
    assert strategy.required() == frozenset()
    assert strategy.samples(1) == 2 + 2 * 2 * 2


async def test_a_thought_without_a_readable_grade_comes_last() -> None:
    plan = [{"op": "generate", "k": 2}, {"op": "score"}]
    dialogue = Dialogue("one", "two", "well", "0")
    bench = Bench(dialogue.engine, verifier=None, n=2)
    outcome = await bench.run(GraphOfThoughts(plan=plan, evaluate="self"))
    assert [each.text for each in outcome.choices] == ["two", "one"]


CALLS = [
    (1, "one"),  # no call is left to score it
    (8, "four"),  # 4 and their scores: none is left to merge the best two
    (9, "merged"),  # neither criticised nor scored, and all that is left in the plan
    (10, "merged"),  # criticised, not written again
    (12, "better"),  # scored, and the version before it is not
    (13, "better"),
]


@pytest.mark.parametrize(("calls", "answer"), CALLS)
async def test_a_budget_that_ends_in_the_plan_leaves_an_answer(calls: int, answer: str) -> None:
    bench = Bench(
        Dialogue(*REPLIES).engine, Budget(1_000, calls, 60.0), verifier=Marks(scores=SCORES)
    )
    outcome = await bench.run(GraphOfThoughts())
    assert outcome.choices[0].text == answer
    assert outcome.stopped_by == ("calls" if calls < 13 else None)
    assert bench.ledger.total.calls == calls
    assert bench.at_rest()


async def test_a_merge_that_the_budget_cut_gives_way_to_what_it_merged() -> None:
    # 4 words, then 3 of the merged answer's 9
    dialogue = Dialogue("one", "two", "three", "four", "word " * 9)
    bench = Bench(dialogue.engine, Budget(7, 100, 60.0), verifier=Marks(scores=SCORES))
    outcome = await bench.run(GraphOfThoughts())
    assert (outcome.choices[0].text, outcome.stopped_by) == ("four", "tokens")
    assert [each.done for each in outcome.candidates] == [True] * 4 + [False]


async def test_what_is_lost_leaves_the_thoughts_as_they_were() -> None:
    dialogue = Dialogue(*REPLIES)
    places = iter(range(100))
    dialogue.engine.fail = lambda _prompt, _index: (
        EngineError("lost") if next(places) in (0, 4) else None
    )
    bench = Bench(dialogue.engine, verifier=Marks(scores=SCORES))
    outcome = await bench.run(GraphOfThoughts(plan=PLAN[:4]))
    # "one" and "merged" are lost
    assert [each.text for each in outcome.choices] == ["four"]
    assert dialogue.engine.log["failed"] == 2


async def test_answers_have_tools_and_format_and_what_is_said_of_them_has_not() -> None:
    dialogue = Dialogue(*(Message(content=each) for each in REPLIES))
    prompt = Prompt(QUESTION, tools=(LOOKUP,), response_format={"type": "json_object"})
    bench = Bench(dialogue.engine, prompt=prompt, verifier=Marks(scores={}))
    await bench.run(GraphOfThoughts())
    ruled = [bool(each.tools and each.response_format) for each in dialogue.prompts]
    assert ruled == [True] * 5 + [False, True]


async def test_what_a_model_says_is_put_into_prompts_literally() -> None:
    dialogue = Dialogue("{question}", "{thoughts}", "merged")
    plan = [{"op": "generate", "k": 2}, {"op": "aggregate"}]
    await Bench(dialogue.engine).run(GraphOfThoughts(plan=plan))
    assert dialogue.asked(2) == [merging("{question}", "{thoughts}")]


VARIANTS: dict[str, dict[str, Any]] = {
    "self": {"evaluate": "self", "evaluations": 2},
    "wide": {
        "plan": [
            {"op": "generate", "k": 3},
            {"op": "refine"},
            {"op": "aggregate", "k": 2, "keep": True},
            {"op": "generate", "k": 1},
            {"op": "score"},
            {"op": "keep_best", "n": 2},
        ]
    },
}


@pytest.mark.parametrize("given", VARIANTS.values(), ids=VARIANTS)
async def test_the_variants_conform(given: dict[str, Any]) -> None:
    strategy, rng = GraphOfThoughts(**given), random.Random(3)
    await conformance.check_ledger(strategy)
    await conformance.check_close(strategy, rng)
    for seed in range(3):
        await conformance.check_seed(strategy, seed)
        await conformance.check_cancel(strategy, rng)
    for _ in range(40):
        await conformance.check_budget(strategy, rng)


@pytest.mark.parametrize("given", [{}, *VARIANTS.values()])
async def test_no_plan_takes_more_samples_than_it_says(given: dict[str, Any]) -> None:
    strategy = GraphOfThoughts(**given)
    bench = Bench(sampling=Sampling(200, seed=1, logprobs=0))
    outcome = await bench.run(strategy)
    assert bench.ledger.usage[Stage.SAMPLE].calls == strategy.samples(1)
    assert len(outcome.candidates) == strategy.choices(1)


def test_a_plan_begins_with_answers_and_has_an_end() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        GraphOfThoughts(plan=[])
    with pytest.raises(ValidationError, match="begin with `generate`"):
        GraphOfThoughts(plan=[{"op": "score"}])
    with pytest.raises(ValidationError, match="more than 1024 calls"):
        GraphOfThoughts(plan=[{"op": "generate", "k": 64}, *[{"op": "refine"}] * 4])
    with pytest.raises(ValidationError, match="op"):
        GraphOfThoughts(plan=[{"op": "generate"}, {"op": "transcend"}])
    with pytest.raises(ValidationError, match=r"lacks \{thoughts\}"):
        GraphOfThoughts(aggregate="{question}")


def test_a_verifier_is_needed_where_the_plan_scores() -> None:
    assert GraphOfThoughts().required() == {Need.SCORES}
    assert GraphOfThoughts(plan=[{"op": "generate"}]).required() == frozenset()
    assert GraphOfThoughts(evaluate="self").required() == frozenset()
