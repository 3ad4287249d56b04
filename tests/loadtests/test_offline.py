"""Strategies on recorded samples: in this process, and over the API in front of the replay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx
import pytest

from loadtests.majority import offline
from loadtests.offline import AMPLE, Player, PoolEngine, shuffled
from loadtests.pools import POOLS, Pool, open_pool
from loadtests.replay import replay_app
from loadtests.worth import Contender, contenders
from strategies.self_consistency import SelfConsistency
from tests.loadtests.asgi import ours, serving
from verifiers.equality import AnswerEquality
from verifiers.errors import EngineError
from verifiers.logprob import Logprob
from verifiers.types import Prompt, Sampling

KEPT = sorted(path.parent for path in POOLS.glob("*/manifest.json"))
BUDGET = {"max_tokens": 65_536, "max_calls": 256}
SOME = 8
"""Problems on which every strategy is compared."""


@pytest.fixture(scope="module")
def pool() -> Pool:
    return open_pool(POOLS / "gsm8k-qwen2.5-coder-0.5b")


@pytest.fixture
async def equality() -> AsyncIterator[AnswerEquality]:
    async with aclosing(AnswerEquality()) as service:  # type: ignore[type-var]
        yield service


async def ask(http: httpx.AsyncClient, pool: Pool, number: int, contender: Contender) -> dict:  # type: ignore[type-arg]
    response = await http.post(
        "/v1/chat/completions",
        json={
            "messages": list(pool.recorded[number].problem.messages),
            "strategy": dict(contender.strategy),
            "budget": BUDGET,
            "seed": 0,
            "max_completion_tokens": 320,
        },
        timeout=60,
    )
    assert response.status_code == 200, response.text
    answer: dict = response.json()  # type: ignore[type-arg]
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
async def test_the_api_gives_the_majority_of_the_recorded_samples_on_every_problem(
    path: object,
) -> None:
    pool = open_pool(path)  # type: ignore[arg-type]
    contender = Contender("", {"type": "self_consistency", "n": pool.manifest.samples})
    assert len(pool.recorded) >= 89
    async with (
        serving(replay_app([pool])) as upstream,
        ours(upstream) as (url, _),
        httpx.AsyncClient(base_url=url) as http,
    ):
        said = [
            (await ask(http, pool, number, contender))["scaling"]["answer"]
            for number in range(len(pool.recorded))
        ]
    assert tuple(said) == await offline(pool.recorded)


@pytest.mark.slow
@pytest.mark.parametrize("contender", contenders(), ids=lambda contender: contender.name)
async def test_the_api_in_front_of_the_replay_gives_what_is_played_offline(
    contender: Contender, pool: Pool, equality: AnswerEquality
) -> None:
    player = Player(equality, Logprob())
    async with (
        serving(replay_app([pool])) as upstream,
        ours(upstream) as (url, _),
        httpx.AsyncClient(base_url=url) as http,
    ):
        for number in range(SOME):
            recorded = pool.recorded[number]
            told = await ask(http, pool, number, contender)
            outcome, ledger = await player.outcome(
                contender.built(), recorded, recorded.samples, AMPLE
            )
            assert told["choices"][0]["message"]["content"] == outcome.choices[0].text
            assert told["scaling"]["answer"] == outcome.answer
            used = told["usage"]["completion_tokens"]
            if told["scaling"]["usage"]["sample"]["exact"]:
                assert used == ledger.total.completion_tokens
            else:  # a stream that was cut: what the network had in flight is booked too
                assert used >= ledger.total.completion_tokens


async def test_orders_are_the_same_every_time_and_hold_every_sample_once(pool: Pool) -> None:
    recorded = pool.recorded[0]
    orders = shuffled(recorded, 5)
    assert orders == shuffled(recorded, 5)
    assert orders[0] == recorded.samples != orders[1]
    assert all(set(each) == set(recorded.samples) for each in orders)


async def test_a_mean_over_orders_is_the_mean(pool: Pool, equality: AnswerEquality) -> None:
    recorded, player = pool.recorded[0], Player(equality)
    played = await player.play(SelfConsistency(n=1), recorded, 3)
    firsts = [order[0] for order in shuffled(recorded, 3)]
    assert played.correct == sum(bool(each.correct) for each in firsts) / 3
    assert played.tokens == sum(each.completion_tokens for each in firsts) / 3
    assert played.samples == 1


async def test_more_samples_than_were_recorded_are_an_error(pool: Pool) -> None:
    engine = PoolEngine(pool.recorded[0].samples[:2])
    with pytest.raises(EngineError, match="no more"):
        async for _ in engine.generate(Prompt(()), Sampling(320), 3):
            pass
