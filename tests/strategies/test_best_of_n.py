"""Best-of-N: the three ways to choose."""

from __future__ import annotations

from collections.abc import Sequence

from server.engines.scripted import ScriptedEngine
from strategies.base import Need
from strategies.best_of_n import BestOfN
from strategies.budget import Budget
from tests.strategies.harness import Bench
from verifiers.base import Verifier
from verifiers.types import Candidate, Powers, Prompt, Sampling, Score, Task

TEXTS = ("a \\boxed{1}", "b \\boxed{2}", "c \\boxed{1}", "d \\boxed{3}")
GRADES = {"a": 0.3, "b": 0.5, "c": 0.4, "d": 0.1}


class Grades(Verifier):
    """Knows the grade of every reply by its first letter."""

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        return [Score(GRADES[each.text[0]]) for each in candidates]


def engine() -> ScriptedEngine:
    def script(_prompt: Prompt, sampling: Sampling, index: int) -> str:
        return TEXTS[sampling.first + index]

    return ScriptedEngine(script)


async def test_max_takes_the_highest_score() -> None:
    outcome = await Bench(engine(), verifier=Grades(), n=4).run(BestOfN(n=4))
    assert [each.text[0] for each in outcome.choices] == ["b", "c", "a", "d"]
    assert outcome.answer == "2"


async def test_weighted_takes_the_answer_with_the_largest_sum() -> None:
    # 1: 0.3 + 0.4, 2: 0.5, 3: 0.1; its best reply is c
    outcome = await Bench(engine(), verifier=Grades(), n=4).run(BestOfN(n=4, select="weighted"))
    assert [each.text[0] for each in outcome.choices] == ["c", "b", "d", "a"]
    assert outcome.answer == "1"
    assert outcome.agreement is not None
    assert round(outcome.agreement, 9) == round(0.7 / 1.3, 9)


async def test_random_draws_by_the_seed_and_scores_nothing() -> None:
    async def first(seed: int) -> str:
        bench = Bench(engine(), verifier=None, sampling=Sampling(64, seed=seed, logprobs=0))
        outcome = await bench.run(BestOfN(n=4, select="random"))
        assert len(outcome.candidates) == 4
        return outcome.choices[0].text[0]

    drawn = [await first(seed) for seed in range(40)]
    assert set(drawn) == set("abcd")
    assert [await first(seed) for seed in range(5)] == drawn[:5]


async def test_random_prefers_what_is_finished() -> None:
    words = " ".join(["word"] * 30)

    def script(_prompt: Prompt, sampling: Sampling, index: int) -> str:
        return words if sampling.first + index else "a \\boxed{1}"

    for seed in range(8):
        bench = Bench(
            ScriptedEngine(script), Budget(22, 100, 60.0), sampling=Sampling(30, seed=seed)
        )
        outcome = await bench.run(BestOfN(n=2, select="random"))
        assert [each.done for each in outcome.candidates] == [True, False]
        assert outcome.choices[0].done


def test_only_scoring_needs_a_verifier() -> None:
    assert BestOfN().required() == {Need.SCORES}
    assert BestOfN(select="weighted").required() == {Need.SCORES}
    assert BestOfN(select="random").required() == set()
