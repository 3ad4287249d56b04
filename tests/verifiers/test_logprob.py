"""The log-probability family against values worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies.harness import Bench
from verifiers.logprob import Logprob
from verifiers.types import Candidate, Capabilities, Prompt, Score, Task, TokenLogprob

TASK = Task(Prompt(({"role": "user", "content": "?"},)))


def reply(*logprobs: float) -> Candidate:
    return Candidate("0.0.0", logprobs=tuple(TokenLogprob("t", each) for each in logprobs))


async def score(verifier: Logprob, candidate: Candidate) -> Score:
    bench = Bench()
    (only,) = await verifier.score(TASK, [candidate], bench.session)  # type: ignore[arg-type]
    return only


async def test_mean_is_the_geometric_mean_probability() -> None:
    assert (await score(Logprob(), reply(math.log(0.5), math.log(0.125)))).value == pytest.approx(
        0.25
    )


async def test_tail_and_lowest_window() -> None:
    candidate = reply(-1.0, -3.0, -2.0, -0.5)
    tail = await score(Logprob(measure="tail", window=2), candidate)
    lowest = await score(Logprob(measure="lowest_window", window=2), candidate)
    assert tail.value == pytest.approx(math.exp(-1.25))
    assert lowest.value == pytest.approx(math.exp(-2.5))


async def test_a_reply_shorter_than_the_window_is_one_window() -> None:
    lowest = await score(Logprob(measure="lowest_window", window=9), reply(-1.0, -3.0))
    assert lowest.value == pytest.approx(math.exp(-2.0))


async def test_self_certainty_is_zero_for_the_uniform_and_grows_with_certainty() -> None:
    def certain(*probabilities: float) -> Candidate:
        top = tuple((str(i), math.log(each)) for i, each in enumerate(probabilities))
        return Candidate("0.0.0", logprobs=(TokenLogprob("0", top[0][1], top),))

    measure = Logprob(measure="self_certainty")
    assert (await score(measure, certain(0.5, 0.5))).value == pytest.approx(0.0)
    # KL((1/2, 1/2) ‖ (3/4, 1/4)) = ½ ln(½/¾) + ½ ln(½/¼) = ½ ln(4/3)
    assert (await score(measure, certain(0.75, 0.25))).value == pytest.approx(math.log(4 / 3) / 2)
    assert (await score(measure, certain(0.6, 0.2))).value == pytest.approx(math.log(4 / 3) / 2)


async def test_without_logprobs_it_abstains() -> None:
    assert (await score(Logprob(), Candidate("0.0.0", text="4"))).abstained


def test_it_says_what_it_needs() -> None:
    assert Logprob().logprobs == 0
    assert Logprob(measure="self_certainty").logprobs == 20
    blind, few = Capabilities(100), Capabilities(100, logprobs=5)
    assert "log-probabilities" in str(Logprob().unavailable(blind, few))
    assert "5 of the 20" in str(Logprob(measure="self_certainty").unavailable(few, blind))
    assert Logprob().unavailable(few, blind) is None


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=40), st.integers(1, 50))
async def test_scores_are_probabilities_and_the_lowest_window_is_lowest(
    logprobs: list[float], window: int
) -> None:
    candidate = reply(*logprobs)
    values = {
        measure: (await score(Logprob(measure=measure, window=window), candidate)).value  # type: ignore[arg-type]
        for measure in ("mean", "tail", "lowest_window")
    }
    assert all(0 <= each <= 1 for each in values.values())
    assert values["lowest_window"] <= values["tail"] + 1e-12
    width = min(window, len(logprobs))
    slow = min(sum(logprobs[i : i + width]) for i in range(len(logprobs) - width + 1)) / width
    assert values["lowest_window"] == pytest.approx(math.exp(slow), rel=1e-6, abs=1e-30)
