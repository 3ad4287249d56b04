"""DeepConf, with window sums, thresholds and the token of every stop worked out by hand."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engines.scripted import ScriptedEngine
from strategies.base import Outcome
from strategies.budget import Budget
from strategies.deep_confidence import DeepConfidence
from strategies.events import EventKind
from strategies.group_confidence import Groups, lowest_group, quantile, token_confidence
from tests.strategies.harness import Bench
from verifiers.types import Capabilities, Chunk, Prompt, Sampling, TokenLogprob

WARM_UP = (r"8 8 8 \boxed{1}", r"6 6 6 \boxed{2}", r"2 2 8 \boxed{2}")
"""Windows of 2: 8 8 6, 6 6 5, 2 5 6. Lowest: 6, 5, 2. The quantile .5 of these is 5."""


def sure(token: str, confidence: float, k: int = 20) -> TokenLogprob:
    return TokenLogprob(token, -0.1, ((token, -confidence),) * k)


class Sure(ScriptedEngine):
    """Says the texts as they are asked for; a number is said with its confidence, a box with 4."""

    def __init__(self, *texts: str, delay: float = 0.0) -> None:
        said = iter(texts)
        super().__init__(lambda *_: next(said), delay=delay)
        self.asked: list[int | None] = []

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        self.asked.append(sampling.logprobs)
        async with aclosing(super().generate(prompt, sampling, n)) as chunks:
            async for chunk in chunks:
                yield replace(chunk, logprobs=tuple(map(self._rated, chunk.logprobs)))

    def _rated(self, entry: TokenLogprob) -> TokenLogprob:
        confidence = 4.0 if "box" in entry.token else float(entry.token)
        return sure(entry.token, confidence, len(entry.top))


def pruned(bench: Bench) -> list[tuple[str, int]]:
    events = [event for event in bench.events.events if event.kind is EventKind.PRUNED]
    return [(event.data["id"], event.data["tokens"]) for event in events]


def texts(outcome: Outcome) -> list[str]:
    return [choice.text for choice in outcome.choices]


async def test_a_trace_is_stopped_at_the_token_where_a_full_window_falls_below() -> None:
    engine = Sure(
        *WARM_UP,
        r"8 8 1 8 8 8 8 8 \boxed{2}",  # 8, 4.5 < 5: stopped at its third token
        r"7 7 7 7 \boxed{2}",  # lowest (7 + 4) / 2 = 5.5
        r"1 9 9 9 9 \boxed{3}",  # 1 alone is no window; (1 + 9) / 2 = 5 is not below 5
    )
    bench = Bench(engine, n=6)
    outcome = await bench.run(DeepConfidence(n=6, warm_up=3, keep=0.5))
    # median length 4: the window of 2,048 is capped at 2
    (voted,) = [e.data for e in bench.events.events[-2:] if e.kind is EventKind.VOTED]
    weights = {each["answer"]: (each["weight"], each["votes"]) for each in voted["classes"]}
    assert weights == {"2": (5 + 5.5, 2), "1": (6.0, 1), "3": (5.0, 1)}
    assert (outcome.answer, outcome.agreement) == ("2", pytest.approx(10.5 / 21.5))
    assert texts(outcome)[0] == r"7 7 7 7 \boxed{2}"
    assert texts(outcome)[-1] == WARM_UP[2], "below the threshold: last, without a vote"
    assert [tokens for _, tokens in pruned(bench)] == [3]
    assert bench.ledger.total.completion_tokens == engine.log["tokens"] == 3 * 4 + 3 + 5 + 6
    assert bench.ledger.total.calls == 6
    assert engine.asked == [20] * 4
    assert outcome.stopped_by is None
    assert bench.at_rest()


async def test_offline_the_top_share_votes_weighted_by_its_lowest_group() -> None:
    engine = Sure(*WARM_UP, r"9 9 9 \boxed{1}")
    outcome = await Bench(engine).run(DeepConfidence(n=4, mode="offline", keep=0.5))
    # lowest: 6, 5, 2, (9 + 4) / 2 = 6.5; place .5 · 3 = 1.5 between 5 and 6: threshold 5.5
    assert (outcome.answer, outcome.agreement) == ("1", 1.0)
    assert [each.score for each in outcome.choices] == [6.5]
    assert engine.log["started"] == 4


async def test_offline_nine_tenths_leave_out_the_least_confident() -> None:
    outcome = await Bench(Sure(*WARM_UP), n=3).run(DeepConfidence(n=3, mode="offline", keep=0.9))
    # place .1 · 2 = .2 between 2 and 5: 2.6
    assert (outcome.answer, outcome.agreement) == ("1", pytest.approx(6 / 11))
    assert [each.score for each in outcome.choices] == [6, 5, 2]


async def test_a_trace_shorter_than_the_window_is_one_group() -> None:
    engine = Sure(r"9 \boxed{1}", r"1 \boxed{2}", *[r"8 8 8 8 8 8 8 \boxed{3}"] * 3)
    bench = Bench(engine, n=5)
    outcome = await bench.run(DeepConfidence(n=5, mode="offline", keep=0.5))
    # median length 8, window 4: 13 / 2, 5 / 2, and (8 + 8 + 8 + 4) / 4 = 7 three times
    assert [each.score for each in outcome.choices] == [7, 7, 7, 6.5, 2.5]


async def test_agreement_in_the_warm_up_is_enough() -> None:
    bench = Bench(engine := Sure(*[r"8 8 8 \boxed{1}"] * 3, *WARM_UP))
    outcome = await bench.run(DeepConfidence(n=6, warm_up=3))
    assert (outcome.answer, outcome.stopped_by) == ("1", "decided")
    assert engine.log["tokens"] == 12


async def test_fewer_than_three_answers_decide_nothing() -> None:
    bench = Bench(engine := Sure(*[r"8 8 8 \boxed{1}"] * 4))
    outcome = await bench.run(DeepConfidence(n=4, warm_up=2, tau=0.95))
    assert engine.log["started"] == 4
    assert outcome.answer == "1"


LONG = " ".join(["8"] * 60)
SAME = r"8 8 8 \boxed{1}"


async def test_consensus_stops_the_stragglers_while_they_stream() -> None:
    bench = Bench(engine := Sure(SAME, SAME, SAME, LONG, LONG, delay=0.001))
    outcome = await bench.run(DeepConfidence(n=5, warm_up=2))
    assert (outcome.answer, outcome.agreement, outcome.stopped_by) == ("1", 1.0, "decided")
    assert 3 * 4 < engine.log["tokens"] < 40
    assert bench.ledger.total.completion_tokens == engine.log["tokens"]
    assert bench.at_rest()


async def test_with_a_seed_whole_waves_decide() -> None:
    engine = Sure(SAME, SAME, SAME, LONG, SAME, SAME)
    bench = Bench(engine, sampling=Sampling(64, seed=1, logprobs=0))
    outcome = await bench.run(DeepConfidence(n=6, warm_up=2))
    assert outcome.stopped_by == "decided"
    assert engine.log["tokens"] == 3 * 4 + 60, "the second wave ends, the third does not begin"


async def test_where_only_unsure_traces_have_an_answer_they_vote() -> None:
    engine = Sure(" ".join(["9"] * 60), r"2 2 2 \boxed{7}")
    outcome = await Bench(engine).run(DeepConfidence(n=2, mode="offline", keep=0.1))
    assert outcome.answer == "7"


async def test_what_the_budget_leaves_votes() -> None:
    bench = Bench(engine := Sure(SAME, SAME, WARM_UP[1]), Budget(1_000, 3, 60.0))
    outcome = await bench.run(DeepConfidence(n=6, warm_up=3, keep=0.5))
    assert (outcome.answer, outcome.stopped_by) == ("1", "calls")
    assert engine.log["started"] == 3


@pytest.mark.parametrize(("given", "able"), [(None, False), (0, False), (4, False), (5, True)])
def test_it_needs_the_alternatives_that_it_looks_at(given: int | None, able: bool) -> None:
    reason = DeepConfidence(alternatives=5).unavailable(Capabilities(100, logprobs=given))
    assert (reason is None) == able


def test_what_a_grammar_rules_out_is_no_infinity() -> None:
    token = TokenLogprob("a", 0.0, (("a", 0.0), ("b", -math.inf)))
    assert token_confidence(token) == 50
    assert token_confidence(TokenLogprob("a", 0.0)) == 0
    assert lowest_group((), 4) == 0


numbers = st.lists(st.floats(0, 40), min_size=1, max_size=40)


@given(numbers, st.integers(1, 50), st.data())
def test_sums_kept_up_in_pieces_are_the_means_of_all_windows(
    values: list[float], width: int, data: st.DataObject
) -> None:
    tokens = [sure("x", value, 2) for value in values]
    groups, end = Groups(width), 0
    while end < len(tokens):
        end = data.draw(st.integers(end, len(tokens)))
        groups.take(tokens[:end])
        end += 1
    groups.take(tokens)
    windows = [values[i : i + width] for i in range(len(values) - width + 1)]
    expected = min((sum(window) / width for window in windows), default=math.inf)
    assert groups.lowest == pytest.approx(expected, abs=1e-9)


@given(numbers, st.floats(0, 1))
def test_a_quantile_has_its_share_below(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert min(values) <= found <= max(values)
    assert sum(value < found for value in values) <= math.ceil(share * (len(values) - 1))


def test_quantiles_of_five() -> None:
    assert [quantile([5, 1, 4, 2, 3], share) for share in (0, 0.1, 0.5, 0.9, 1)] == [
        1,
        pytest.approx(1.4),
        3,
        pytest.approx(4.6),
        5,
    ]
    assert quantile(range(11), 1 - 0.9) == 1, "exact, although 1 − .9 is not"
