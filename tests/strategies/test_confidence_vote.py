"""Confidence votes: weights and outcomes, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engines.scripted import ScriptedEngine
from strategies.confidence_vote import ConfidenceVote, borda, softmax
from tests.strategies.harness import Bench
from verifiers.types import Capabilities, Chunk, Prompt, Sampling, TokenLogprob

ABSTENTION = "so many words that nobody could take the whole of this reply for an answer"


class Sure(ScriptedEngine):
    """Says these texts; a token of text i has probability p_i, and one alternative the rest."""

    def __init__(self, *said: tuple[str, float]) -> None:
        super().__init__(lambda _prompt, sampling, index: said[sampling.first + index][0])
        self.said = said
        self.asked: list[Sampling] = []

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        self.asked.append(sampling)
        async with aclosing(super().generate(prompt, sampling, n)) as chunks:
            async for chunk in chunks:
                chance = self.said[sampling.first + chunk.index][1]
                top = ((".", math.log(chance)), ("~", math.log(1 - chance)))
                token = TokenLogprob(".", math.log(chance), top)
                yield replace(chunk, logprobs=(token,) * len(chunk.token_ids))


TWO_AGAINST_ONE = (("\\boxed{1}", 0.5), ("so \\boxed{2}", 0.9), ("\\boxed{1}", 0.5))


def test_softmax_weighs_by_the_exponential() -> None:
    assert softmax([0.0, math.log(2)], 1.0) == pytest.approx([1 / 3, 2 / 3])
    assert softmax([0.0, math.log(2)], 0.5) == pytest.approx([1 / 5, 4 / 5])
    assert softmax([0.3, 0.3, 0.3, 0.3], 0.001) == [0.25] * 4
    assert softmax([0.0, 500.0], 0.001) == [0.0, 1.0]


def test_borda_weighs_by_rank() -> None:
    assert borda([0.1, 0.9, 0.5], 1.0) == [1, 3, 2]
    assert borda([0.1, 0.9, 0.5], 2.0) == [1, 9, 4]
    assert borda([0.1, 0.9, 0.5], 0.0) == [1, 1, 1]


def test_equal_confidence_shares_the_places() -> None:
    assert borda([0.9, 0.5, 0.5, 0.1], 1.0) == [4, 2.5, 2.5, 1]
    assert borda([0.9, 0.5, 0.5, 0.1], 2.0) == [16, (9 + 4) / 2, (9 + 4) / 2, 1]
    assert borda([0.5, 0.5], 1.0) == [1.5, 1.5]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_the_order_of_arrival_does_not_matter(values: list[float], shuffle: Any) -> None:
    places = list(range(len(values)))
    shuffle.shuffle(places)
    moved = [values[place] for place in places]
    for weigh in (softmax, borda):
        weights = weigh(values, 0.7)
        assert weigh(moved, 0.7) == [weights[place] for place in places]


@pytest.mark.parametrize(
    ("strategy", "answer", "agreement"),
    [
        # 2 e^0.5 = 3.2974 against e^0.9 = 2.4596
        (ConfidenceVote(n=3), "1", 2 * math.exp(0.5) / (2 * math.exp(0.5) + math.exp(0.9))),
        # 2 e^5 = 296.8 against e^9 = 8103
        (ConfidenceVote(n=3, softmax_temperature=0.1), "2", 1 / (1 + 2 * math.exp(-4))),
        # 3 against 1.5 + 1.5: a tie, that the surest reply breaks
        (ConfidenceVote(n=3, weighting="borda"), "2", 0.5),
        # 9 against 2.5 + 2.5
        (ConfidenceVote(n=3, weighting="borda", power=2), "2", 9 / 14),
        # √3 = 1.732 against 1 + √2 = 2.414
        (
            ConfidenceVote(n=3, weighting="borda", power=0.5),
            "1",
            (1 + math.sqrt(2)) / (1 + math.sqrt(2) + math.sqrt(3)),
        ),
    ],
)
async def test_the_weights_decide(strategy: ConfidenceVote, answer: str, agreement: float) -> None:
    outcome = await Bench(Sure(*TWO_AGAINST_ONE), verifier=None).run(strategy)
    assert (outcome.answer, outcome.agreement) == (answer, pytest.approx(agreement))


async def test_replies_carry_their_weight_as_score() -> None:
    bench = Bench(Sure(*TWO_AGAINST_ONE), n=3)
    outcome = await bench.run(ConfidenceVote(n=3, weighting="borda", power=2))
    assert [each.score for each in outcome.choices] == [9, 2.5, 2.5]


async def test_an_abstention_holds_its_rank() -> None:
    engine = Sure((ABSTENTION, 0.99), ("\\boxed{1}", 0.8), ("\\boxed{2}", 0.6))
    outcome = await Bench(engine).run(ConfidenceVote(n=3, weighting="borda"))
    assert (outcome.answer, outcome.agreement, outcome.abstentions) == ("1", 2 / 3, 1)


async def test_self_certainty_is_the_divergence_from_uniform() -> None:
    engine = Sure(("\\boxed{1}", 0.9), ("\\boxed{2}", 0.6), ("\\boxed{3}", 0.5))
    bench = Bench(engine, n=3)
    outcome = await bench.run(ConfidenceVote(n=3, confidence="self_certainty"))
    # KL(½, ½ ‖ p, 1 − p) = −ln 2 − ½ ln p(1 − p), so exp of it is 1 / (2 √(p (1 − p))):
    raw = [1 / (2 * math.sqrt(p * (1 - p))) for p in (0.9, 0.6, 0.5)]  # 5/3, 1.0206, 1
    scores = [each.score for each in outcome.choices]
    assert scores == pytest.approx([each / sum(raw) for each in raw])
    assert [each.logprobs for each in engine.asked] == [20]


def test_self_certainty_needs_alternatives() -> None:
    few, all_of_them = Capabilities(4096, logprobs=5), Capabilities(4096, logprobs=20)
    asks = ConfidenceVote(confidence="self_certainty")
    assert asks.unavailable(few) == "the engine gives 5 of the 20 alternatives needed"
    assert asks.unavailable(all_of_them) is None
    assert asks.unavailable(Capabilities(4096)) == "the engine gives no log-probabilities"
    assert ConfidenceVote().unavailable(few) is None
