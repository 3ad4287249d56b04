"""Early exit on scripted probes: where they are put, when they agree, what is saved."""

from __future__ import annotations

import json

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.budget import Budget
from strategies.early_exit import FINAL, PROBE, EarlyExit
from strategies.events import EventKind
from tests.strategies.harness import QUESTION, Bench
from tests.strategies.variants import TextOnly
from verifiers.types import Prompt, Sampling

WORDS = [f"w{i}" for i in range(60)]
QUICK = EarlyExit(every=4, patience=2)


class Thoughts:
    """A reply of words, and what each probe of it is told; an answer put in is the reply's end."""

    def __init__(self, *told: str, words: int = 60) -> None:
        self.places: list[int] = []
        """Words of the reply at each probe."""
        self.whole = " ".join(WORDS[:words])
        self._told = iter(told)

    def __call__(self, prompt: Prompt, _sampling: Sampling, _index: int) -> str:
        said = prompt.reply.text if prompt.reply else ""
        if said.endswith(PROBE):
            self.places.append(len(said.removesuffix(PROBE).split()))
            return next(self._told)
        if "boxed" in said:
            return ""
        return self.whole[len(said) :]


def spent(bench: Bench) -> tuple[int, int]:
    """Tokens and calls; the engine agrees."""
    total = bench.ledger.total
    assert total.completion_tokens == bench.engine.log["tokens"]  # type: ignore[attr-defined]
    return total.completion_tokens, total.calls


async def test_it_ends_when_the_last_probes_agree() -> None:
    thoughts = Thoughts("1} so", "42} so", "42} so")
    bench = Bench(ScriptedEngine(thoughts))
    outcome = await bench.run(QUICK)
    assert thoughts.places == [4, 8, 12]
    (choice,) = outcome.choices
    assert choice.text == " ".join(WORDS[:12]) + FINAL + "42}"
    assert (choice.tokens, choice.score, choice.finish_reason) == (12, 1.0, "stop")
    assert (outcome.answer, outcome.stopped_by) == ("42", "decided")
    # three pieces of 4, three probes of 2, and an end of none: 18, where the reply has 60
    assert spent(bench) == (18, 7)


async def test_probes_are_nobodys_answers_and_cast_no_vote() -> None:
    bench = Bench(ScriptedEngine(Thoughts("42}", "42}")))
    outcome = await bench.run(QUICK)
    assert [each.id for each in outcome.candidates] == [outcome.choices[0].id]
    assert (outcome.agreement, outcome.abstentions) == (None, 0)
    voted = [event.data for event in bench.events.events if event.kind is EventKind.VOTED]
    assert [each["classes"] for each in voted] == [
        [{"answer": "42", "weight": 1.0, "votes": 1}],
        [{"answer": "42", "weight": 2.0, "votes": 2}],
    ]


@pytest.mark.parametrize(
    ("told", "exits"),
    [
        (("1/2} so", "0.5} so"), True),
        (("42} so", "41} so"), False),
        (("42} so", "I know"), False),  # no box is closed: it abstains
        (("42} so", "42} so wait"), False),
        (("42} so", "42} Hold on"), False),
        (("42} so", "42} as we know"), True),
        (("\\text{no}}", "\\text{no}}"), True),  # the answer itself is no hesitation
    ],
)
async def test_agreement_is_of_answers_without_hesitation(
    told: tuple[str, str], exits: bool
) -> None:
    bench = Bench(ScriptedEngine(Thoughts(*told, words=11)))
    outcome = await bench.run(QUICK)
    # 11 words: probes after 4 and 8, then the reply ends by itself.
    assert (FINAL in outcome.choices[0].text) == exits
    assert outcome.choices[0].tokens == (8 if exits else 11)
    assert outcome.choices[0].score == (1.0 if exits else 0.5)
    assert outcome.stopped_by == ("decided" if exits else None)


async def test_a_reply_that_ends_first_is_the_answer() -> None:
    bench = Bench(ScriptedEngine(Thoughts(words=4)))
    outcome = await bench.run(QUICK)
    assert outcome.choices[0].text == " ".join(WORDS[:4])
    assert spent(bench) == (4, 1)


async def test_a_probe_is_cut_at_its_length() -> None:
    bench = Bench(ScriptedEngine(Thoughts("42} " + "so " * 50, "42} " + "so " * 50)))
    await bench.run(QUICK.model_copy(update={"probe_tokens": 5}))
    assert spent(bench) == (2 * (4 + 5), 5)


async def test_thinking_is_closed_before_the_answer() -> None:
    strategy = QUICK.model_copy(update={"end_of_thinking": "</think>"})
    outcome = await Bench(ScriptedEngine(Thoughts("42}", "42}"))).run(strategy)
    assert outcome.choices[0].text.endswith(f"w7\n</think>{FINAL}42}}")
    assert outcome.answer == "42"


async def test_a_reply_at_its_cap_ends_there() -> None:
    thoughts = Thoughts(*"12345")
    bench = Bench(ScriptedEngine(thoughts), sampling=Sampling(10))
    outcome = await bench.run(QUICK)
    assert (outcome.choices[0].tokens, outcome.choices[0].finish_reason) == (10, "length")
    assert thoughts.places == [4, 8]
    worst = QUICK.worst_case(1, 10, None, Budget())
    assert worst.samples == 3 + 2 + 1
    assert worst.tokens == 10 + 2 * 20


async def test_where_the_budget_ends_probing_the_reply_is_finished() -> None:
    # 24 tokens, a quarter, 6, is kept: 4 + 1, 4 + 1, 4 + 1, 3 and no probe; then 6 to finish.
    thoughts = Thoughts("1}", "2}", "3}", "4}", words=21)
    bench = Bench(ScriptedEngine(thoughts), Budget(24, 99, 60.0))
    outcome = await bench.run(QUICK)
    assert thoughts.places == [4, 8, 12]
    assert outcome.stopped_by == "tokens"
    assert (outcome.choices[0].text, outcome.choices[0].done) == (thoughts.whole, True)
    assert spent(bench)[0] == 24


async def test_the_last_call_finishes_the_reply() -> None:
    bench = Bench(ScriptedEngine(Thoughts("1}", "2}", "3}")), Budget(1_000, 5, 60.0))
    outcome = await bench.run(QUICK)
    assert (outcome.choices[0].tokens, outcome.stopped_by) == (60, "calls")
    assert spent(bench) == (60 + 2, 5)


async def test_an_engine_without_token_ids_goes_on_from_text() -> None:
    thoughts = Thoughts("1} so", "42} so", "42} so")
    bench = Bench(TextOnly(thoughts))
    outcome = await bench.run(QUICK)
    assert thoughts.places == [4, 8, 12]
    assert outcome.choices[0].text == " ".join(WORDS[:12]) + FINAL + "42}"
    assert spent(bench) == (18, 7)


async def test_each_answer_has_its_own_chain_and_the_most_certain_comes_first() -> None:
    def script(prompt: Prompt, sampling: Sampling, _index: int) -> str:
        said = prompt.reply.text if prompt.reply else ""
        if said.endswith(PROBE):
            return "42}" if said.startswith("sure") else f"{len(said)}}}"
        return "" if "boxed" in said else next(begun) + " ".join(WORDS[:20])

    begun = iter(["unsure ", "sure "])
    outcome = await Bench(ScriptedEngine(script), n=2).run(QUICK)
    assert [each.text[:4] for each in outcome.choices] == ["sure", "unsu"]
    assert [each.score for each in outcome.choices] == [1.0, 0.5]


async def test_a_seed_repeats_it() -> None:
    async def once() -> object:
        bench = Bench(n=2, sampling=Sampling(300, seed=4, logprobs=0))
        outcome = await bench.run(EarlyExit(every=16))
        spent(bench)
        return outcome.choices, outcome.candidates

    assert await once() == await once()


async def test_a_format_rules_only_what_is_written_last() -> None:
    def script(prompt: Prompt, sampling: Sampling, index: int) -> str:
        if prompt.response_format is None:
            return thoughts(prompt, sampling, index)
        return json.dumps({"said": prompt.messages[-2]["content"][-4:]})

    thoughts = Thoughts("42}", "42}")
    form = {"type": "json_object"}
    bench = Bench(ScriptedEngine(script), prompt=Prompt(QUESTION, response_format=form))
    outcome = await bench.run(QUICK)
    assert json.loads(outcome.choices[0].text) == {"said": "{42}"}
