"""Chain of action and thought on steps of known confidence: what follows, and from where."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.budget import Budget
from strategies.chain_of_action_thought import WORDS, Action, ChainOfActionThought
from strategies.events import EventKind
from tests.strategies.harness import QUESTION, Bench
from tests.strategies.variants import Rated, TextOnly
from verifiers.types import Prompt, Sampling

REFLECT, EXPLORE = WORDS[Action.REFLECT], WORDS[Action.EXPLORE]


def chances(token: str) -> dict[str, float]:
    """A quarter where a token asks, else certainty."""
    return {token: 0.25 if "?" in token else 1.0}


class Steps:
    """Says one text after the other, from wherever it is asked to go on; keeps where that was."""

    def __init__(self, *texts: str) -> None:
        self.places: list[str] = []
        self._texts = iter(texts)

    def __call__(self, prompt: Prompt, _sampling: Sampling, _index: int) -> str:
        self.places.append(prompt.reply.text if prompt.reply else "")
        return next(self._texts)


def rated(*texts: str, budget: Budget | None = None) -> tuple[Bench, Steps]:
    steps = Steps(*texts)
    return Bench(Rated(steps, chances), budget or Budget(1_000, 99, 60.0)), steps


def spent(bench: Bench) -> tuple[int, int]:
    """Tokens and calls; the engine agrees."""
    total = bench.ledger.total
    assert total.completion_tokens == bench.engine.log["tokens"]  # type: ignore[attr-defined]
    return total.completion_tokens, total.calls


async def test_sure_steps_go_on_without_a_word() -> None:
    bench, steps = rated("one step\n\ntwo steps\n\n\\boxed{42}")
    outcome = await bench.run(ChainOfActionThought())
    assert outcome.choices[0].text == "one step\n\ntwo steps\n\n\\boxed{42}"
    assert len(steps.places) == 1  # the engine went on where each step ended
    assert spent(bench) == (7, 3)


async def test_an_unsure_step_is_checked() -> None:
    # Of three tokens one has a quarter: .25^(1/3) = .63, below .8, not below .6.
    bench, steps = rated("one step?\n\nnever said", "yes\n\n\\boxed{42}")
    outcome = await bench.run(ChainOfActionThought())
    assert steps.places == ["", f"one step?\n\n{REFLECT}"]
    assert outcome.choices[0].text == f"one step?\n\n{REFLECT}yes\n\n\\boxed{{42}}"
    assert outcome.choices[0].tokens == 3 + 3
    assert spent(bench) == (6, 3)


async def test_a_step_without_confidence_is_given_up_for_another() -> None:
    # sure; then two quarters of three: .0625^(1/3) = .40; it restarts after the first step.
    bench, steps = rated("a step\n\nwhy? what?\n\nnever said", "so \\boxed{42}")
    outcome = await bench.run(ChainOfActionThought())
    assert steps.places == ["", f"a step\n\n{EXPLORE}"]
    assert outcome.choices[0].text == f"a step\n\n{EXPLORE}so \\boxed{{42}}"
    assert outcome.choices[0].tokens == 3 + 2
    assert spent(bench) == (3 + 3 + 2, 3)  # what was given up is paid
    pruned = [event.data for event in bench.events.events if event.kind is EventKind.PRUNED]
    (gone,) = [each for each in outcome.candidates if each.id == pruned[0]["id"]]
    assert gone.text == "a step\n\nwhy? what?\n\n"
    assert outcome.choices[0].parent == gone.parent


async def test_the_first_step_can_be_given_up_too() -> None:
    bench, steps = rated("why? what?\n\nnever said", "so \\boxed{42}")
    outcome = await bench.run(ChainOfActionThought())
    assert steps.places == ["", EXPLORE]
    assert outcome.choices[0].text == f"{EXPLORE}so \\boxed{{42}}"


async def test_it_intervenes_only_so_often() -> None:
    bench, steps = rated("why?\n\n", "why?\n\n", "why?\n\nwhy?\n\n\\boxed{42}")
    outcome = await bench.run(ChainOfActionThought(interventions=2))
    assert steps.places == ["", EXPLORE, EXPLORE]
    assert outcome.choices[0].text == f"{EXPLORE}why?\n\nwhy?\n\n\\boxed{{42}}"


async def test_a_cue_after_a_cut_step_begins_a_paragraph_and_can_be_chosen() -> None:
    bench, steps = rated("one two? three four", "\\boxed{42}")
    strategy = ChainOfActionThought(step_tokens=3, cues={Action.REFLECT: "Hm: "})
    outcome = await bench.run(strategy)
    assert outcome.choices[0].text == "one two? three\n\nHm: \\boxed{42}"
    assert steps.places[1] == "one two? three\n\nHm: "


def marks(token: str) -> dict[str, float]:
    """After the first step reflecting is likely, after the second exploring, then neither."""
    likely = {
        "then": {"<|continue|>": 0.2, "<|reflect|>": 0.5, "<|explore|>": 0.1},
        "checked": {"<|continue|>": 0.3, "<|explore|>": 0.4},
    }
    return {token: 0.1, **likely.get(token.strip(), {})}


async def test_the_model_chooses_the_likeliest_mark() -> None:
    # The token drawn aside is the first word of what was to follow.
    script = Steps("one\n\nthen more", "right\n\nchecked more", "two\n\nend", "end")
    bench = Bench(Rated(script, marks))
    outcome = await bench.run(ChainOfActionThought(policy="model"))
    reflected = "one\n\n<|reflect|>"
    explored = f"{reflected}right\n\n<|explore|>"
    assert script.places == ["", reflected, explored, f"{explored}two\n\n"]
    assert outcome.choices[0].text == f"{explored}two\n\nend"


async def test_looking_ahead_costs_a_token_a_step() -> None:
    def script(prompt: Prompt, _sampling: Sampling, _index: int) -> str:
        return "one\n\ntwo\n\nend"[len(prompt.reply.text if prompt.reply else "") :]

    bench = Bench(Rated(script, lambda token: {token: 0.1}))
    outcome = await bench.run(ChainOfActionThought(policy="model"))
    assert (outcome.choices[0].text, outcome.choices[0].tokens) == ("one\n\ntwo\n\nend", 5)
    assert spent(bench) == (5 + 2, 3 + 2)
    assert [each.text for each in outcome.candidates if each.done] == ["one\n\ntwo\n\nend"]


def test_the_model_can_choose_only_where_alternatives_are_given() -> None:
    few = replace(ScriptedEngine().capabilities, logprobs=0)
    assert ChainOfActionThought().unavailable(few) is None
    assert "0 of the 20" in (ChainOfActionThought(policy="model").unavailable(few) or "")


async def test_after_its_last_step_it_only_goes_on() -> None:
    bench, steps = rated("a\n\nwhy?\n\nwhy?\n\n\\boxed{42}")
    outcome = await bench.run(ChainOfActionThought(max_steps=1))
    assert outcome.answer == "42"
    assert spent(bench) == (7, 2)
    assert steps.places == [""]


@pytest.mark.parametrize(("tokens", "calls", "limit"), [(16, 99, "tokens"), (999, 4, "calls")])
async def test_the_budget_leaves_a_whole_answer(tokens: int, calls: int, limit: str) -> None:
    # Pairs of 2 tokens. 12 of 16 tokens, 2 of 4 calls are for steps; the rest is for the end.
    bench, _ = rated("a\n\n" * 7 + "\\boxed{42}", budget=Budget(tokens, calls, 60.0))
    outcome = await bench.run(ChainOfActionThought())
    assert (outcome.answer, outcome.stopped_by) == ("42", limit)
    assert spent(bench)[0] == 15


async def test_an_engine_without_token_ids_goes_on_from_text() -> None:
    steps = Steps("one\n\n", "two\n\n", "\\boxed{42}")
    bench = Bench(TextOnly(steps))
    outcome = await bench.run(ChainOfActionThought(interventions=0))
    assert steps.places == ["", "one\n\n", "one\n\ntwo\n\n"]
    assert outcome.answer == "42"


async def test_a_seed_repeats_every_chain() -> None:
    async def once() -> object:
        bench = Bench(n=2, sampling=Sampling(300, seed=4, logprobs=0))
        outcome = await bench.run(ChainOfActionThought(step_tokens=8, explore_below=0.72))
        spent(bench)
        return outcome.choices, sorted(outcome.candidates, key=lambda each: each.id)

    assert await once() == await once()


async def test_a_format_rules_only_what_is_written_last() -> None:
    def script(prompt: Prompt, _sampling: Sampling, _index: int) -> str:
        if prompt.response_format is None:
            return "one\n\ntwo"
        return json.dumps({"said": prompt.messages[-2]["content"]})

    form = {"type": "json_object"}
    bench = Bench(Rated(script, chances), prompt=Prompt(QUESTION, response_format=form))
    outcome = await bench.run(ChainOfActionThought())
    assert json.loads(outcome.choices[0].text) == {"said": "one\n\ntwo"}
