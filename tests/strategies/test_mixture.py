"""Mixture of agents on scripted layers: who reads what, and what it costs."""

from __future__ import annotations

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.base import Need
from strategies.budget import Budget
from strategies.events import Answer, Event
from strategies.mixture import SYNTHESIS, Mixture
from tests.strategies.harness import QUESTION, Bench
from verifiers.errors import EngineError
from verifiers.types import Prompt, Sampling


class Layers(ScriptedEngine):
    """Says "layer.index" and how many answers it read; keeps the texts that it was asked."""

    def __init__(self, words: int = 1) -> None:
        self.asked: list[str] = []
        super().__init__(self._say)
        self._words = words

    def _say(self, prompt: Prompt, sampling: Sampling, index: int) -> str:
        text = str(prompt.messages[-1]["content"])
        if not self.asked or self.asked[-1] != text:
            self.asked.append(text)
        layer = len(self.asked)
        return " ".join([f"{layer}.{sampling.first + index}:", *["word"] * (self._words - 1)])


def read(*texts: str) -> str:
    shown = "\n\n".join(f"Answer {place}:\n{text}" for place, text in enumerate(texts, start=1))
    return SYNTHESIS.format(question=QUESTION[0]["content"], proposals=shown)


async def test_each_layer_reads_all_of_the_layer_before_it() -> None:
    engine = Layers()
    bench = Bench(engine)
    outcome = await bench.run(Mixture(n=3))
    assert engine.asked == [
        QUESTION[0]["content"],
        read("1.0:", "1.1:", "1.2:"),
        read("2.0:", "2.1:", "2.2:"),
    ]
    assert [each.text for each in outcome.choices] == ["3.0:"]
    assert {each.text for each in outcome.candidates} == {
        "1.0:", "1.1:", "1.2:", "2.0:", "2.1:", "2.2:", "3.0:",
    }  # fmt: skip
    total = bench.ledger.total
    assert total.completion_tokens == engine.log["tokens"] == 3 + 3 + 1
    assert total.calls == Mixture(n=3).samples(1) == 7
    assert bench.at_rest()


async def test_two_layers_propose_and_synthesise() -> None:
    engine = Layers()
    await Bench(engine).run(Mixture(n=2, layers=2))
    assert engine.asked[1:] == [read("1.0:", "1.1:")]


async def test_all_layers_share_the_prefix_of_the_question() -> None:
    assert SYNTHESIS.startswith("{question}")
    assert SYNTHESIS.endswith("{proposals}")


async def test_a_client_may_want_several_answers() -> None:
    bench = Bench(Layers(), n=2)
    outcome = await bench.run(Mixture(n=3, layers=2))
    assert [each.text for each in outcome.choices] == ["2.0:", "2.1:"]


async def test_the_synthesis_streams_live_and_nothing_before_it_does() -> None:
    bench = Bench(Layers(words=5))
    heard: list[str] = []

    def follow(item: Event | Answer) -> None:
        if isinstance(item, Answer):
            heard.append(item.candidate.text)

    bench.events.subscribe(follow)
    await bench.run(Mixture(n=3))
    assert heard == ["3.0:", *("3.0:" + " word" * count for count in range(1, 5))]


async def test_a_call_is_kept_for_the_synthesis() -> None:
    bench = Bench(Layers(), Budget(10_000, 4, 60.0))
    outcome = await bench.run(Mixture(n=6))
    # 3 propose; 3 more and a synthesis are 4 calls, 1 is left: no layer between
    assert outcome.choices[0].text == "2.0:"
    assert bench.ledger.total.calls == 4


@pytest.mark.parametrize(("tokens", "layers"), [(42, 3), (41, 2)])
async def test_a_layer_is_left_out_where_it_would_eat_the_synthesis(
    tokens: int, layers: int
) -> None:
    engine = Layers(words=6)
    bench = Bench(engine, Budget(tokens, 100, 60.0), sampling=Sampling(8, logprobs=0))
    outcome = await bench.run(Mixture(n=3))
    # 3 · 6 = 18 for the first layer; 18 more and 6 for the synthesis are 42 in all
    assert len(engine.asked) == layers
    assert outcome.choices[0].text.startswith(f"{layers}.0:")


async def test_with_one_call_the_only_proposal_is_the_answer() -> None:
    bench = Bench(Layers(), Budget(10_000, 1, 60.0))
    outcome = await bench.run(Mixture(n=6))
    assert (outcome.choices[0].text, outcome.stopped_by) == ("1.0:", "calls")


async def test_a_lost_proposal_is_not_read() -> None:
    failing = iter([None, EngineError("lost"), *[None] * 9])
    engine = Layers()
    engine.fail = lambda _prompt, _index: next(failing)
    await Bench(engine).run(Mixture(n=3, layers=2))
    assert engine.asked[1] == read("1.0:", "1.2:")


def test_a_prompt_must_show_the_question_and_the_proposals() -> None:
    with pytest.raises(ValueError, match="proposals"):
        Mixture(prompt="{question}")


async def test_each_agent_may_propose_by_a_strategy_of_its_own() -> None:
    engine = Layers()
    bench = Bench(engine)
    inner = {"type": "self_consistency", "n": 2}
    plan = Mixture.model_validate({"n": 3, "layers": 2, "inner": inner})
    outcome = await bench.run(plan)
    # what an agent says is its vote's winner; all six replies say something else
    assert len(outcome.candidates) == bench.ledger.total.calls == plan.samples(1) == 7
    proposals = engine.asked[1].partition("without a word about theirs.\n\n")[2]
    assert proposals.count("Answer ") == 3
    assert outcome.choices[0].text.startswith("2.0:")
    assert outcome.agreement is None
    assert bench.ledger.total.completion_tokens == engine.log["tokens"] == 7
    assert bench.at_rest()


@pytest.mark.parametrize("width", [1, 2])
async def test_what_an_agent_concludes_does_not_stream(width: int) -> None:
    bench = Bench(Layers(words=3))
    heard: list[str] = []

    def follow(item: Event | Answer) -> None:
        if isinstance(item, Answer):
            heard.append(item.candidate.text)

    bench.events.subscribe(follow)
    await bench.run(Mixture.model_validate({"n": width, "layers": 2, "inner": "single"}))
    assert heard == ["2.0:", "2.0: word", "2.0: word word"]


def test_an_agents_needs_and_costs_are_the_mixtures() -> None:
    inner = {"type": "best_of_n", "n": 4}
    plan = Mixture.model_validate({"n": 2, "layers": 3, "inner": inner})
    assert plan.required() == {Need.SCORES}
    assert plan.samples(1) == 4 * 2 * 2 + 1
    assert plan.choices(1) == 3
    assert plan.worst_case(1, 10, None, Budget(100_000)) == (17, 170)
