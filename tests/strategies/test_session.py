"""The Session on scripted replies, with results worked out by hand."""

from __future__ import annotations

import asyncio
import time

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.base import run
from strategies.best_of_n import BestOfN
from strategies.budget import Budget, Stage
from strategies.events import Answer, EventKind
from strategies.self_consistency import SelfConsistency
from strategies.single import Single
from strategies.weighted_vote import WeightedVote
from tests.strategies.harness import Bench
from verifiers.errors import BudgetSpent, DeadlinePassed, EngineError
from verifiers.types import (
    Candidate,
    Capabilities,
    Continuation,
    Prompt,
    Reply,
    Sampling,
    Score,
    sample_seed,
)

WORDS = " ".join(f"w{i}" for i in range(100))


def replies(*texts: str) -> ScriptedEngine:
    """Make an engine whose sample i of any prompt says texts[i]."""

    def script(_prompt: Prompt, sampling: Sampling, index: int) -> str:
        return texts[(sampling.first + index) % len(texts)]

    return ScriptedEngine(script)


async def test_a_budget_is_shared_equally_and_given_back_tokens_go_on() -> None:
    # 24 tokens, 3 samples, cap 40: a quarter of the cap is 10, so two start, with 12 each. The
    # first ends after 3 and gives 9 back, the second takes all of them: 12 + 9 = 21.
    engine = replies("one two three", WORDS, "a b")
    bench = Bench(engine, Budget(24, 100, 60.0), sampling=Sampling(40))
    first, second = await bench.session.sample(3)
    assert (first.tokens, first.finish_reason) == (3, "stop")
    assert (second.tokens, second.finish_reason) == (21, None)
    assert second.text == " ".join(f"w{i}" for i in range(21))
    assert bench.ledger.stopped_by == "tokens"
    assert bench.session.spent


async def test_where_replies_cannot_go_on_they_start_with_their_whole_cap() -> None:
    engine = replies("one two three", WORDS, "a b", WORDS)
    engine.capabilities = Capabilities(32_768, Continuation.NONE)
    bench = Bench(engine, Budget(25, 100, 60.0), sampling=Sampling(10))
    drawn = await bench.session.sample(4)
    # two with 10 each; the first gives 7 back: 12 left pay the third whole, then the rest, 10.
    assert [each.tokens for each in drawn] == [3, 10, 2, 10]
    assert [each.finish_reason for each in drawn] == ["stop", "length", "stop", "length"]


async def test_a_reply_at_its_own_cap_is_done() -> None:
    bench = Bench(replies(WORDS), sampling=Sampling(7))
    (only,) = await bench.session.sample(1)
    assert (only.tokens, only.finish_reason, only.done) == (7, "length", True)
    assert not bench.session.spent


async def test_extend_goes_step_by_step_and_finished_ones_are_free() -> None:
    bench = Bench(replies("a b\n\nc d\n\ne", "z"))
    began = await bench.session.extend(bench.session.blank(2), ["\n\n"])
    assert [each.text for each in began] == ["a b\n\n", "z"]
    assert [each.done for each in began] == [False, True]
    calls = bench.ledger.total.calls
    second = await bench.session.extend(began, ["\n\n"])
    assert second[0].text == "a b\n\nc d\n\n"
    assert second[1] is began[1]
    assert bench.ledger.total.calls == calls + 1
    third = await bench.session.extend(second, ["\n\n"])
    assert (third[0].text, third[0].done) == ("a b\n\nc d\n\ne", True)


async def test_a_step_that_ends_at_the_replys_cap_is_its_end() -> None:
    (whole,) = await Bench(replies("a b\n\nc d")).session.extend(Bench().session.blank(1), ["\n\n"])
    bench = Bench(replies("a b\n\nc d"), sampling=Sampling(whole.tokens))
    (step,) = await bench.session.extend(bench.session.blank(1), ["\n\n"])
    assert (step.text, step.finish_reason, step.done) == ("a b\n\n", "length", True)
    assert await bench.session.extend([step], ["\n\n"]) == [step]


async def test_extend_stops_after_a_number_of_tokens() -> None:
    bench = Bench(replies(WORDS), sampling=Sampling(50))
    candidates = await bench.session.extend(bench.session.blank(1), tokens=8)
    assert (candidates[0].tokens, candidates[0].done) == (8, False)
    candidates = await bench.session.extend(candidates, tokens=8)
    assert candidates[0].tokens == 16
    assert candidates[0].text == " ".join(f"w{i}" for i in range(16))


async def test_a_race_shows_progress_and_stops_one() -> None:
    engine = replies(WORDS, "quick one")
    bench = Bench(engine, sampling=Sampling(60))
    async with bench.session.race(bench.session.blank(2)) as race:
        async for candidate in race:
            if candidate.tokens >= 5:
                race.stop(candidate)
    slow, quick = race.candidates
    assert 5 <= slow.tokens < 60
    assert not slow.done
    assert quick.finish_reason == "stop"
    assert engine.running == 0
    assert bench.ledger.total.completion_tokens == engine.log["tokens"] == slow.tokens + 2
    assert bench.at_rest()
    assert [e.data["id"] for e in bench.events.events if e.kind is EventKind.PRUNED] == [slow.id]


async def test_leaving_a_race_stops_the_rest() -> None:
    engine = ScriptedEngine(lambda *_: WORDS, delay=0.001)
    bench = Bench(engine)
    async with bench.session.race(bench.session.blank(3)) as race:
        async for _ in race:
            break
    assert engine.running == 0
    assert bench.at_rest()
    assert bench.ledger.total.completion_tokens == engine.log["tokens"]


async def test_a_single_streams_and_a_vote_is_sent_when_it_is_decided() -> None:
    seen: list[Answer] = []
    for strategy, pieces in ((Single(), 3), (SelfConsistency(n=3), 1)):
        bench = Bench(replies("it is \\boxed{4}"))
        seen.clear()
        bench.events.subscribe(lambda item: isinstance(item, Answer) and seen.append(item))
        await bench.run(strategy)
        assert [each.index for each in seen] == [0] * pieces
        assert seen[-1].candidate.text == "it is \\boxed{4}"


async def test_conclude_finishes_an_unfinished_candidate() -> None:
    bench = Bench(replies("a b c d"))
    (begun,) = await bench.session.extend(bench.session.blank(1), tokens=2)
    (done,) = await bench.session.conclude(begun)
    assert (done.id, done.text, done.finish_reason) == (begun.id, "a b c d", "stop")


async def test_forks_share_the_account_and_not_the_seeds() -> None:
    bench = Bench(sampling=Sampling(64, seed=5, logprobs=0))
    fork = bench.session.fork([{"role": "user", "content": "What is 6 times 7?"}])
    (one,) = await bench.session.sample(1)
    (other,) = await fork.sample(1)
    assert one.text != other.text
    assert bench.ledger.total.calls == 2
    assert list(bench.request.produced) == [one.id]


def test_seeds_of_places_are_far_apart() -> None:
    seeds = {sample_seed(seed, place) for seed in range(50) for place in range(50)}
    assert len(seeds) == 2_500
    assert all(0 <= seed < 2**63 for seed in seeds)


async def test_the_deadline_leaves_what_was_paid_for() -> None:
    engine = ScriptedEngine(lambda *_: WORDS, delay=0.01)
    bench = Bench(engine, Budget(10_000, 100, 0.2), sampling=Sampling(100, incremental=True))
    started = time.monotonic()
    outcome = await bench.run(SelfConsistency(n=4))
    assert time.monotonic() - started < 1.0
    assert outcome.stopped_by == "deadline"
    assert not outcome.choices[0].done
    assert bench.ledger.total.exact
    assert bench.ledger.total.completion_tokens == engine.log["tokens"]
    assert engine.running == 0


async def test_tokens_that_the_engine_did_not_report_are_booked_as_reserved() -> None:
    engine = ScriptedEngine(lambda *_: WORDS, delay=0.01)
    bench = Bench(engine, Budget(10_000, 100, 0.2), sampling=Sampling(100))
    with pytest.raises(DeadlinePassed):
        await bench.run(SelfConsistency(n=4))
    assert bench.ledger.total.completion_tokens == 400 >= engine.log["tokens"]
    assert not bench.ledger.total.exact


async def test_no_call_no_answer() -> None:
    bench = Bench(budget=Budget(0, 100, 60.0))
    with pytest.raises(BudgetSpent):
        await bench.run(Single())


async def test_all_samples_failing_is_the_engines_error() -> None:
    bench = Bench(ScriptedEngine(fail=lambda *_: EngineError("down")))
    with pytest.raises(EngineError, match="down"):
        await bench.run(SelfConsistency())
    assert bench.at_rest()
    assert bench.ledger.total.completion_tokens == 0


async def test_extending_fails_where_nothing_can_be_extended() -> None:
    engine = replies(WORDS)
    bench = Bench(engine)
    begun = await bench.session.extend(bench.session.blank(2), tokens=3)
    engine.fail = lambda _prompt, _index: EngineError("gone")
    with pytest.raises(EngineError, match="gone"):
        await bench.session.extend(begun)
    assert bench.at_rest()


async def test_only_what_is_new_is_scored() -> None:
    bench = Bench()
    candidates = await bench.session.score(await bench.session.sample(3))
    again = await bench.session.score(candidates)
    assert [each.score for each in again] == [each.score for each in candidates]
    assert bench.ledger.usage[Stage.VERIFY].calls == 3


async def test_best_of_n_ranks_by_score() -> None:
    bench = Bench(n=8)
    outcome = await bench.run(BestOfN(n=8))
    scores = [each.score for each in outcome.choices]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 8


async def test_votes_by_count_and_by_weight() -> None:
    words = "no answer here, only words that go on for longer than an answer would"
    texts = ("\\boxed{1}", "\\boxed{1}", "so then \\boxed{2}", words)
    bench = Bench(replies(*texts))
    outcome = await bench.run(SelfConsistency(n=4))
    assert (outcome.answer, outcome.agreement, outcome.abstentions) == ("1", 2 / 3, 1)

    class Favour(type(bench.verifier)):  # type: ignore[misc]
        async def score(self, task, candidates, powers):  # type: ignore[no-untyped-def]
            return [Score(0.9 if "2" in each.text else 0.3) for each in candidates]

    bench = Bench(replies(*texts), verifier=Favour())
    outcome = await bench.run(WeightedVote(n=4))
    assert (outcome.answer, outcome.agreement) == ("2", pytest.approx(0.9 / 1.5))


async def test_a_reply_goes_on_by_its_token_ids() -> None:
    seen: list[Reply | None] = []

    def script(prompt: Prompt, _sampling: Sampling, _index: int) -> str:
        seen.append(prompt.reply)
        return "a b c"

    bench = Bench(ScriptedEngine(script))
    (begun,) = await bench.session.extend(bench.session.blank(1), tokens=1)
    foreign = Candidate("x", text="b", token_ids=(999_999_999_999,), tokens=1)
    await bench.session.extend([foreign])
    assert seen == [None, Reply("b", (999_999_999_999,))]
    assert begun.token_ids


async def test_events_tell_the_whole_story() -> None:
    bench = Bench()
    await bench.run(WeightedVote(n=3))
    kinds = [each.kind.value for each in bench.events.events]
    assert kinds == ["sampled"] * 3 + ["scored"] * 3 + ["voted", "finished"]
    assert [each.index for each in bench.events.events] == list(range(8))
    seconds = [each.seconds for each in bench.events.events]
    assert seconds == sorted(seconds)


async def test_requests_run_side_by_side_under_one_admission() -> None:
    benches = [Bench() for _ in range(10)]
    for bench in benches[1:]:
        bench.request.service = benches[0].request.service
    async with asyncio.TaskGroup() as group:
        for bench in benches:
            group.create_task(run(SelfConsistency(n=8), bench.session, bench.request))
    assert benches[0].at_rest()
