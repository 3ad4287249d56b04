"""What holds for every search by steps, on replies of many steps."""

from __future__ import annotations

import json
import random

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.admission import Admission
from strategies.beam import Beam
from strategies.budget import Budget
from strategies.dvts import DVTS
from strategies.particle_filter import ParticleFilter
from strategies.rebase import Rebase
from strategies.steps import FrontierSearch
from tests.strategies import conformance
from tests.strategies.harness import QUESTION, Bench
from tests.strategies.trees import END, Marks, Walk
from verifiers.errors import DeadlinePassed, EngineError
from verifiers.judge import Judge
from verifiers.logprob import Logprob
from verifiers.types import Prompt, Sampling

KINDS = [Beam, DVTS, Rebase, ParticleFilter]
every_kind = pytest.mark.parametrize("kind", KINDS)

PIECES = {"split": "tokens", "step_tokens": 12}
VARIANTS = [
    *(kind(**PIECES) for kind in KINDS),
    Beam(**PIECES, n=6, width=3, lookahead=2, select="score"),
    Beam(**PIECES, asynchronous=True),
    DVTS(**PIECES, n=5, width=2),
    ParticleFilter(**PIECES, n=4, iterations=3, resampling="systematic"),
]
every_variant = pytest.mark.parametrize("search", VARIANTS, ids=lambda each: f"{each.type}")


@every_variant
async def test_replies_of_many_steps_conform(search: FrontierSearch) -> None:
    rng = random.Random(23)
    await conformance.check_ledger(search)
    for seed in range(3):
        await conformance.check_seed(search, seed)
    for calls in (12, 60, 300) * 20:
        await conformance.check_budget(search, rng, calls)
    for _ in range(4):
        await conformance.check_cancel(search, rng)
        await conformance.check_close(search, rng)


@every_variant
async def test_a_judge_is_paid_within_the_worst_case(search: FrontierSearch) -> None:
    engine = ScriptedEngine()
    bench = Bench(engine, verifier=Judge())
    worst = search.worst_case(1, bench.sampling.max_tokens, bench.verifier, bench.budget)
    await bench.run(search)
    assert bench.ledger.total.completion_tokens == engine.log["tokens"] <= worst.tokens
    assert not conformance.cut_off(bench)


def chain(prompt: Prompt, sampling: Sampling, index: int) -> str:
    """Answer after 30 steps, in words that tell the branches apart."""
    said = prompt.reply.text.count(END) if prompt.reply else 0
    return END.join([f"w{sampling.first + index}"] * (30 - said) + ["\\boxed{1}"])


@every_kind
@pytest.mark.parametrize(
    ("budget", "limit"), [(Budget(200, 1_000, 60.0), "tokens"), (Budget(10_000, 30, 60.0), "calls")]
)
async def test_a_search_that_must_stop_finishes_its_best_branch(
    kind: type[FrontierSearch], budget: Budget, limit: str
) -> None:
    bench = Bench(ScriptedEngine(chain), budget, verifier=Marks(scores={}))
    outcome = await bench.run(kind(n=4, **({"width": 2} if kind in (Beam, DVTS) else {})))
    assert outcome.stopped_by == limit
    assert outcome.choices[0].done
    assert outcome.choices[0].text.endswith("\\boxed{1}")
    assert not conformance.cut_off(bench)


@every_kind
async def test_a_search_that_cannot_begin_draws_one_reply(kind: type[FrontierSearch]) -> None:
    bench = Bench(ScriptedEngine(chain), Budget(1_000, 1, 60.0))
    outcome = await bench.run(kind())
    assert outcome.choices[0].done
    assert (outcome.stopped_by, bench.ledger.total.calls) == ("calls", 1)


@every_kind
async def test_steps_end_with_the_search(kind: type[FrontierSearch]) -> None:
    bench = Bench(ScriptedEngine(chain))
    outcome = await bench.run(kind(max_steps=3))
    assert [each.done for each in outcome.choices] == [True]
    assert outcome.stopped_by is None
    assert not conformance.cut_off(bench)


@every_kind
async def test_a_form_is_written_last(kind: type[FrontierSearch]) -> None:
    def script(prompt: Prompt, sampling: Sampling, index: int) -> str:
        if prompt.response_format is None:
            return chain(prompt, sampling, index)
        return json.dumps({"after": len(prompt.messages)})

    prompt = Prompt(QUESTION, response_format={"type": "json_object"})
    bench = Bench(ScriptedEngine(script), prompt=prompt)
    outcome = await bench.run(kind())
    assert json.loads(outcome.choices[0].text) == {"after": 3}
    assert outcome.choices[0].done


@every_kind
async def test_a_step_that_is_lost_costs_that_step(kind: type[FrontierSearch]) -> None:
    def fail(prompt: Prompt, index: int) -> Exception | None:
        return EngineError("lost") if prompt.reply is not None and index == 1 else None

    bench = Bench(ScriptedEngine(chain, fail=fail))
    outcome = await bench.run(kind())
    assert outcome.answer == "1"
    assert bench.engine.log["failed"] > 0  # type: ignore[attr-defined]
    assert not conformance.cut_off(bench)


async def test_a_step_ends_where_it_is_told_to() -> None:
    text = "One two. Three\nfour five; six"
    steps = {"sentence": "One two. ", "line": "One two. Three\n", "tokens": "One two."}
    for split, first in steps.items():
        bench = Bench(ScriptedEngine(lambda *_: text))
        search = Beam(split=split, step_tokens=2 if split == "tokens" else 50)
        grown = await search.step(bench.session, bench.session.blank(1))
        assert grown[0].text == first
    bench = Bench(ScriptedEngine(lambda *_: text))
    grown = await Beam(mark=";").step(bench.session, bench.session.blank(1))
    assert grown[0].text == "One two. Three\nfour five;"


async def test_ties_fall_to_what_ended_then_to_what_is_likelier() -> None:
    walk = Walk.through({"": ["a", "b", "c"], "a": ["z"], "b": ["z"]}, {})
    walk.sampling = Sampling(64)
    assert await walk.paths(Beam(n=3, width=3, max_steps=1)) == ["c"]


@every_kind
async def test_a_deadline_leaves_what_was_begun_or_is_the_error(kind: type[FrontierSearch]) -> None:
    engine = ScriptedEngine(chain, delay=0.02)
    bench = Bench(engine, Budget(10_000, 1_000, 0.3), sampling=Sampling(500, logprobs=0))
    outcome = await bench.run(kind(n=4))
    assert outcome.stopped_by == "deadline"
    assert not outcome.choices[0].done
    assert outcome.choices[0].tokens > 0
    bench = Bench(engine, Budget(10_000, 1_000, 0.001), sampling=Sampling(500, logprobs=0))
    with pytest.raises(DeadlinePassed):
        await bench.run(kind(n=4))
    assert bench.at_rest()
    assert engine.running == 0


@every_variant
async def test_the_answer_is_finished_wherever_a_reply_can_be_paid(search: FrontierSearch) -> None:
    rng = random.Random(29)
    for _ in range(40):
        cap = rng.randint(1, 100)
        budget = Budget(rng.randint(4 * cap, 10 * cap), rng.randint(1, 150), 60.0)
        bench = Bench(
            ScriptedEngine(),
            budget,
            admission=Admission(rng.randint(1, 9)),
            verifier=rng.choice([Judge(), Logprob()]),
            sampling=Sampling(cap, seed=rng.choice([None, 1]), logprobs=0),
        )
        outcome = await bench.run(search)
        assert outcome.choices[0].done, (budget, bench.sampling, bench.verifier)
        assert bench.at_rest()
