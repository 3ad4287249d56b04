"""Parts of a strategy: which replies count again, and what is salvaged when the budget ends."""

from __future__ import annotations

from strategies.budget import Limit
from strategies.self_consistency import SelfConsistency
from tests.strategies.harness import QUESTION, Bench
from tests.strategies.test_cascade import Deck


async def test_replies_count_again_where_they_would_be_drawn_again() -> None:
    bench = Bench(Deck("12345"))
    drawn = await bench.session.sample(3, temperature=None)
    part = bench.session.part()
    assert part.reusable(2, temperature=0.5) == []
    assert part.reusable(2, temperature=None) == drawn[:2]
    assert await part.sample(2, temperature=None) == [
        drawn[2],
        next(each for each in bench.request.produced.values() if each not in drawn),
    ]
    assert part.reusable(9, temperature=None) == []
    assert bench.session.reusable(9, temperature=None) == []


async def test_other_engines_and_other_prompts_draw_other_replies() -> None:
    bench = Bench(Deck("123"), others={"large": Deck("45")})
    await bench.session.sample(2)
    assert bench.session.part("large").reusable(2) == []
    other = bench.session.fork([*QUESTION, {"role": "user", "content": "Sure?"}], answers=True)
    assert other.part().reusable(2) == []
    assert len(bench.session.part("main").reusable(2)) == 2


async def test_a_reply_that_was_made_in_pieces_does_not_count_again() -> None:
    bench = Bench(Deck("123", words=8))
    first, second = await bench.session.sample(2)
    [opened] = await bench.session.append([first], " Wait")
    await bench.session.extend([opened])
    assert bench.session.part().reusable(2) == [second]


async def test_a_part_begins_undecided_and_without_a_vote() -> None:
    bench = Bench(Deck("77"))
    await SelfConsistency(n=2).run(bench.session)
    bench.session.decided()
    bench.session.part()
    assert (bench.request.votes, bench.ledger.stopped_by) == (None, None)
    bench.ledger.stopped_by = Limit.TOKENS
    bench.session.part()
    assert bench.ledger.stopped_by is Limit.TOKENS


async def test_what_is_salvaged_was_made_or_reused_in_the_part() -> None:
    bench = Bench(Deck("1234"))
    await bench.session.sample(2)
    part, other = bench.session.part(), bench.session.part()
    drawn = await part.sample(3)
    assert part.salvage() == drawn
    assert other.salvage() == []
    assert len(bench.session.salvage()) == 3
