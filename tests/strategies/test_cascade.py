"""Cascades on scripted stages: when an answer stands, who is asked, what counts, what it costs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.base import Need
from strategies.budget import Budget, Stage
from strategies.cascade import Acceptance, Cascade
from strategies.events import Answer, Event, EventKind
from tests.strategies.harness import QUESTION, Bench
from verifiers.errors import BadRequest
from verifiers.judge import Judge
from verifiers.types import Prompt, Sampling

BOX = "\\boxed{%s}"


class Deck(ScriptedEngine):
    """Says the given answers in order, whoever asks; keeps the prompts. "-": no answer."""

    def __init__(self, answers: str, words: int = 1, **options: Any) -> None:
        self.prompts: list[Prompt] = []
        self.samplings: list[Sampling] = []
        self._answers = iter(answers)
        self._words = words
        super().__init__(self._say, **options)

    def _say(self, prompt: Prompt, sampling: Sampling, _index: int) -> str:
        self.prompts.append(prompt)
        self.samplings.append(sampling)
        return self.text(next(self._answers), self._words)

    @staticmethod
    def text(answer: str, words: int) -> str:
        """Return a reply of so many words."""
        said = "nothing-that-anyone-could-take-for-an-answer" if answer == "-" else BOX % answer
        return " ".join(["so"] * (words - 1) + [said])


def cascade(*stages: Any, **accept: float) -> Cascade:
    told = [each if "strategy" in each else {"strategy": each} for each in stages]
    given: dict[str, Any] = {"accept": accept} if accept else {}
    return Cascade.model_validate({"stages": told, **given})


def vote(n: int, engine: str | None = None, **more: Any) -> dict[str, Any]:
    return {"strategy": {"type": "self_consistency", "n": n, **more}, "engine": engine}


SINGLE = {"type": "single"}


async def test_three_of_four_that_agree_are_enough() -> None:
    engine = Deck("7717")
    bench = Bench(engine)
    outcome = await bench.run(Cascade())
    assert (outcome.answer, outcome.agreement, outcome.stopped_by) == ("7", 0.75, "decided")
    assert len(engine.prompts) == bench.ledger.total.calls == 4
    assert bench.at_rest()


async def test_else_the_next_stage_draws_what_is_missing_and_all_vote() -> None:
    engine = Deck("7788" + "8" * 12)
    bench = Bench(engine)
    outcome = await bench.run(Cascade())
    assert (outcome.answer, outcome.stopped_by) == ("8", None)
    assert outcome.agreement == 14 / 16
    assert len(outcome.candidates) == bench.ledger.total.calls == 16
    [chosen] = [each.data for each in bench.events.events if each.kind is EventKind.CHOSEN]
    wide = {"type": "self_consistency", "n": 16}
    assert chosen == {"strategy": wide, "stage": 1, "engine": None}
    assert bench.ledger.total.completion_tokens == engine.log["tokens"] == 16


@pytest.mark.parametrize(
    ("answers", "accepted"),
    [("777-", True), ("77--", False), ("77-8", False), ("7---", False), ("----", False)],
)
async def test_a_reply_without_an_answer_counts_against_agreement(
    answers: str, accepted: bool
) -> None:
    engine = Deck(answers + "9" * 12)
    await Bench(engine).run(Cascade())
    assert (len(engine.prompts) == 4) == accepted


async def test_other_parameters_are_other_samples() -> None:
    engine = Deck("12" + "3" * 4)
    bench = Bench(engine)
    outcome = await bench.run(cascade(vote(2), vote(4, temperature=0.3)))
    assert len(engine.prompts) == 6
    assert outcome.agreement == 1.0
    assert {each.temperature for each in engine.samplings} == {0.8, 0.3}


async def test_a_lone_reply_agrees_with_nobody() -> None:
    engine = Deck("7" + "8" * 4)
    outcome = await Bench(engine).run(cascade(SINGLE, vote(4)))
    assert outcome.answer == "8"


async def test_another_engine_is_asked_the_same_question_in_the_same_form() -> None:
    able = replace(ScriptedEngine().capabilities, adapters=("lora",))
    small, large = Deck("12", capabilities=able), Deck("333", model="large")
    tool = {"type": "function", "function": {"name": "look"}}
    prompt = Prompt(QUESTION, (tool,), "auto", template_arguments={"think": True}, adapter="lora")
    bench = Bench(small, others={"large": large}, prompt=prompt)
    outcome = await bench.run(cascade(vote(2), vote(3, "large")))
    assert (outcome.answer, outcome.agreement) == ("3", 1.0)
    assert small.prompts[0] == prompt
    assert large.prompts[0] == replace(prompt, template_arguments={}, adapter=None)
    assert len(outcome.candidates) == 5
    assert bench.ledger.total.completion_tokens == small.log["tokens"] + large.log["tokens"] == 5
    assert set(bench.request.produced) == {each.id for each in outcome.candidates}


async def test_a_small_model_that_is_sure_spares_the_large_one() -> None:
    large = Deck("333")
    bench = Bench(Deck("22"), others={"large": large})
    outcome = await bench.run(cascade(vote(2), vote(3, "large")))
    assert (outcome.answer, outcome.agreement, large.prompts) == ("2", 1.0, [])


async def test_another_engine_is_asked_for_the_log_probabilities_it_can_give() -> None:
    able = replace(ScriptedEngine().capabilities, logprobs=None)
    large = Deck("333", capabilities=able)
    await Bench(Deck("12"), others={"large": large}).run(cascade(vote(2), vote(3, "large")))
    assert {each.logprobs for each in large.samplings} == {None}


async def test_votes_of_earlier_stages_are_not_told_where_a_later_one_answers() -> None:
    bench = Bench(Deck("12" + "3"))
    outcome = await bench.run(cascade(vote(2), SINGLE))
    assert (outcome.answer, outcome.agreement, outcome.abstentions) == ("3", None, 0)


@pytest.mark.parametrize(("share", "calls"), [(0.99, 1), (1.01, 2)])
async def test_confidence_is_the_geometric_mean_probability(share: float, calls: int) -> None:
    probe = Bench(Deck("7"))
    [reply] = (await probe.run(cascade(SINGLE, SINGLE, minimum_confidence=1e-9))).choices
    confidence = math.exp(sum(each.logprob for each in reply.logprobs) / len(reply.logprobs))
    bench = Bench(Deck("77"))
    await bench.run(cascade(SINGLE, SINGLE, minimum_confidence=confidence * share))
    assert bench.ledger.total.calls == calls


@pytest.mark.parametrize(("share", "calls"), [(0.99, 1), (1.01, 2)])
async def test_a_score_is_the_verifiers_of_the_answers_reply(share: float, calls: int) -> None:
    probe = Bench(Deck("7"))
    plan = cascade(SINGLE, SINGLE, minimum_score=-1e9)
    score = next(iter((await probe.run(plan)).candidates)).score
    bench = Bench(Deck("77"))
    least = score * share if score > 0 else score / share
    outcome = await bench.run(cascade(SINGLE, SINGLE, minimum_score=least))
    assert bench.ledger.usage[Stage.SAMPLE].calls == calls
    assert outcome.candidates[0].score == score


async def test_scoring_a_stages_answer_is_counted_and_an_abstention_accepts_nothing() -> None:
    bench = Bench(verifier=Judge())
    plan = cascade(SINGLE, SINGLE, minimum_score=2.0)
    assert plan.required() == {Need.SCORES}
    await bench.run(plan)
    assert bench.ledger.usage[Stage.VERIFY].calls == 1
    assert bench.ledger.usage[Stage.SAMPLE].calls == 2
    [scored] = [each for each in bench.events.events if each.kind is EventKind.SCORED]
    assert scored.data["id"] == next(iter(bench.request.produced))


async def test_only_the_last_stage_streams() -> None:
    for answers, heard in (("12" + "3", ["so", "so so", "so so \\boxed{3}"]), ("77", ["whole"])):
        bench = Bench(Deck(answers, words=3))
        texts: list[str] = []

        def follow(item: Event | Answer, texts: list[str] = texts) -> None:
            if isinstance(item, Answer):
                texts.append(item.candidate.text)

        bench.events.subscribe(follow)
        await bench.run(cascade(vote(2), SINGLE))
        assert texts == (heard if heard != ["whole"] else ["so so \\boxed{7}"])


async def test_an_unfinished_answer_never_takes_the_place_of_a_finished_one() -> None:
    bench = Bench(Deck("12" + "33", words=10), Budget(25, 100, 60.0))
    outcome = await bench.run(cascade(vote(2), vote(2, temperature=0.3)))
    assert (outcome.choices[0].done, outcome.stopped_by) == (True, "tokens")
    assert outcome.answer in ("1", "2")
    assert outcome.agreement == 0.5
    assert bench.ledger.total.completion_tokens == 25


async def test_calls_that_end_between_two_stages_leave_the_first_ones_vote() -> None:
    bench = Bench(Deck("12"), Budget(10_000, 2, 60.0))
    outcome = await bench.run(cascade(vote(2), SINGLE))
    assert (outcome.agreement, outcome.stopped_by) == (0.5, "calls")


async def test_an_adaptive_stage_goes_on_from_what_was_drawn() -> None:
    engine = Deck("7788" + "7777" + "7" * 9)
    plan = cascade(vote(4), {"type": "adaptive_consistency", "n": 16, "confidence": 0.85})
    outcome = await Bench(engine, sampling=Sampling(64, seed=1, logprobs=0)).run(plan)
    # 6 against 2: P(θ > ½) for Beta(7, 3) is 466/512 = .91
    assert (outcome.agreement, outcome.stopped_by) == (0.75, "decided")
    assert len(engine.prompts) == 8


def test_a_criterion_has_to_be_named() -> None:
    with pytest.raises(ValueError, match="at least one criterion"):
        Acceptance()


def test_engines_are_held_against_the_servers() -> None:
    plan = cascade(vote(2), {"strategy": {"type": "beam"}, "engine": "large"})
    service = Bench().request.service
    with pytest.raises(BadRequest) as caught:
        plan.check(service)
    assert caught.value.param == "strategy.stages.1.engine"
    whole = replace(ScriptedEngine().capabilities, logprobs=None)
    deaf = Bench(others={"large": ScriptedEngine(capabilities=whole)}).request.service
    plan.check(deaf)
    sure = cascade(vote(2), vote(3, "large"), minimum_confidence=0.5)
    with pytest.raises(BadRequest) as caught:
        sure.check(deaf)
    assert caught.value.param == "strategy.stages.1.strategy"
    assert sure.unavailable(whole) is not None
    assert plan.unavailable(whole) is None
