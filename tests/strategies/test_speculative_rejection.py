"""Speculative rejection, with the survivors of every checkpoint worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.base import Need
from strategies.budget import Budget, Stage
from strategies.events import EventKind
from strategies.speculative_rejection import SpeculativeRejection
from tests.strategies.harness import Bench
from verifiers.base import Verifier
from verifiers.judge import Judge
from verifiers.types import Candidate, Powers, Sampling, Score, Task


class LastNumber(Verifier):
    """Scores a reply by the last number in it."""

    type: Literal["last_number"] = "last_number"

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        return [Score(float(each.text.split()[-1])) for each in candidates]


def bench_of(*texts: str, budget: Budget | None = None, n: int = 1) -> Bench:
    engine = ScriptedEngine(lambda _prompt, sampling, index: texts[sampling.first + index])
    budget = budget or Budget(10_000, 1_000, 60.0)
    return Bench(engine, budget, LastNumber(), n=n)


def dropped(bench: Bench) -> dict[str, int]:
    """Where each reply was dropped: its index, and its length then."""
    events = [event for event in bench.events.events if event.kind is EventKind.PRUNED]
    return {event.data["id"].rpartition(".")[2]: event.data["tokens"] for event in events}


async def test_half_of_those_in_the_race_fall_out_at_every_checkpoint() -> None:
    bench = bench_of(
        "1 4 9 9 9 9",  # 4 at the first checkpoint: third, out with 2 tokens, before its 9
        "1 3",  # 3: fourth, out, but it has just ended: it stays an answer
        "1 6 1 7 1 8 2",  # 6, then 7 against 5: alone, it goes on to its end, which is worth 2
        "1 5 1 5 9 9",  # 5, then 5: out with 4 tokens
        n=4,
    )
    outcome = await bench.run(SpeculativeRejection(n=4, check_every=2))
    assert [each.text for each in outcome.choices] == ["1 3", "1 6 1 7 1 8 2"]
    assert [each.score for each in outcome.choices] == [3, 2]
    assert dropped(bench) == {"0": 2, "3": 4}
    # 4 · 2 to the first checkpoint, 2 · 2 to the second, 3 to the end
    total = bench.ledger.total
    assert total.completion_tokens == bench.engine.log["tokens"] == 8 + 4 + 3  # type: ignore[attr-defined]
    assert bench.ledger.usage[Stage.SAMPLE].calls == 4 + 2 + 1
    assert bench.ledger.usage[Stage.VERIFY].calls == 4 + 2 + 1
    assert bench.at_rest()


async def test_one_that_has_ended_keeps_its_place_in_the_ranking() -> None:
    bench = bench_of("7", "1 5 1 6 9", "1 4", "1 3 9")
    outcome = await bench.run(SpeculativeRejection(n=4, check_every=2))
    # 7 5 4 3: the first two stay; 7 against 6: the second falls out, and nobody is left to go on
    assert outcome.choices[0].text == "7"
    assert dropped(bench) == {"3": 2, "1": 4}
    assert bench.ledger.usage[Stage.SAMPLE].calls == 4 + 1


async def test_a_small_share_drops_at_least_one() -> None:
    strategy = SpeculativeRejection(n=5, alpha=0.3, check_every=2)
    # ⌈.3 · 5⌉ = 2, ⌈.3 · 3⌉ = 1, ⌈.3 · 2⌉ = 1
    assert strategy.samples(1) == 5 + 3 + 2 + 1
    assert strategy.choices(1) == 5
    worst = strategy.worst_case(1, 100, Judge(), Budget())
    assert worst == (11, 2 * (5 + 3 + 2) + 100 + 11)
    assert strategy.worst_case(1, 3, None, Budget()).tokens == 15, "five short replies are less"


async def test_equal_scores_fall_to_the_surer_reply() -> None:
    bench = bench_of("1 5 7", "2 5 7")
    await bench.run(SpeculativeRejection(n=2, check_every=2))
    began = [bench.request.produced[f"0.0.{index}"] for index in range(2)]
    begun = [sum(entry.logprob for entry in each.logprobs[:2]) for each in began]
    loser = min(range(2), key=lambda index: begun[index])
    assert dropped(bench) == {str(loser): 2}


async def test_what_the_budget_cannot_judge_falls_out_before() -> None:
    texts = [f"1 {index} 9" for index in range(8)]
    bench = bench_of(*texts, budget=Budget(10_000, 9, 60.0))
    outcome = await bench.run(SpeculativeRejection(n=8, check_every=2))
    # 8 starts, 8 scores and one to finish are 17 calls, for 4 it is 9: so 4 start
    assert outcome.choices[0].done
    assert bench.ledger.usage[Stage.SAMPLE].calls == 4 + 1
    assert bench.ledger.total.calls <= 9


async def test_the_same_seed_drops_the_same() -> None:
    async def once() -> dict[str, int]:
        bench = Bench(sampling=Sampling(150, seed=3, logprobs=0))
        await bench.run(SpeculativeRejection(check_every=8))
        return dropped(bench)

    first = await once()
    assert len(first) > 8
    assert first == await once()


def test_it_scores_beginnings_and_goes_on() -> None:
    assert {Need.SCORES, Need.STEP_SCORES, Need.CONTINUATION} == SpeculativeRejection.needs


@pytest.mark.parametrize("field", [{"alpha": 1}, {"alpha": 0}, {"check_every": 0}])
def test_parameters_are_bounded(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="than"):
        SpeculativeRejection(**field)  # type: ignore[arg-type]
