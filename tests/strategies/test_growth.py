"""How a session grows replies: branches, texts put in, parts side by side, forms written last."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from server.engines.scripted import ScriptedEngine
from server.engines.scripts import split
from strategies.base import Need, Strategy, run
from strategies.budget import Budget
from strategies.events import Answer, EventKind
from strategies.session import WRITE_DOWN, Session
from tests.strategies.harness import Bench
from verifiers.errors import BudgetSpent
from verifiers.types import Candidate, Prompt, Sampling

WORDS = " ".join(f"w{i}" for i in range(60))


def tree(prompt: Prompt, sampling: Sampling, index: int) -> str:
    """Say "start", then a step that tells from where and as which sample it was drawn."""
    if prompt.reply is None:
        return "start\n\nplanned\n\nend"
    return f"after {len(split(prompt.reply.text))} as {sampling.first + index}\n\nend"


async def test_branches_start_together_from_their_parent_and_differ() -> None:
    bench = Bench(ScriptedEngine(tree))
    (root,) = await bench.session.extend(bench.session.blank(1), ["\n\n"])
    branches = bench.session.branch([root], [3])
    assert [each.parent for each in branches] == [root.id] * 3
    assert len({each.id for each in (root, *branches)}) == 4
    grown = await bench.session.extend(branches, ["\n\n"])
    assert [each.text for each in grown] == [
        "start\n\nplanned\n\n",  # the first goes on where the reply was interrupted
        "start\n\nafter 2 as 1\n\n",
        "start\n\nafter 2 as 2\n\n",
    ]
    own = sum(each.tokens - root.tokens for each in grown) + root.tokens
    assert own == bench.ledger.total.completion_tokens == bench.engine.log["tokens"]  # type: ignore[attr-defined]


async def test_a_finished_candidate_is_not_copied_and_a_width_of_0_prunes() -> None:
    bench = Bench(ScriptedEngine(tree))
    open_one, other = await bench.session.extend(bench.session.blank(2), ["\n\n"])
    done = replace(other, finish_reason="stop")
    assert bench.session.branch([open_one, done], [0, 4]) == [done]
    pruned = [event.data["id"] for event in bench.events.events if event.kind == EventKind.PRUNED]
    assert pruned == [open_one.id]


async def test_a_text_that_is_put_in_is_free_and_is_gone_on_from() -> None:
    bench = Bench(ScriptedEngine(tree))
    (whole,) = await bench.session.sample(1)
    assert whole.done
    spent = bench.ledger.total
    (opened,) = await bench.session.append([whole], " Wait")
    assert (opened.done, opened.id, opened.tokens) == (False, whole.id, whole.tokens)
    assert opened.text == "start\n\nplanned\n\nend Wait"
    assert bench.ledger.total == spent
    (grown,) = await bench.session.extend([opened])
    assert grown.text == "start\n\nplanned\n\nend Waitafter 6 as 0\n\nend"
    assert grown.done


@pytest.mark.parametrize(("end_tokens", "kept"), [((), 5), ((2,), 4)])
async def test_the_token_that_ended_a_reply_is_taken_back(
    end_tokens: tuple[int, ...], kept: int
) -> None:
    engine = ScriptedEngine(tree)
    engine.capabilities = replace(engine.capabilities, end_tokens=end_tokens)
    bench = Bench(engine)
    (whole,) = await bench.session.sample(1)
    assert len(whole.token_ids) == 5
    (opened,) = await bench.session.append([whole], "x", [7])
    assert opened.token_ids == (*whole.token_ids[:kept], 7)


async def test_parts_have_ids_and_seeds_of_their_own_whatever_the_others_do() -> None:
    async def once(slow: int) -> list[list[str]]:
        bench = Bench(sampling=Sampling(64, seed=3))

        async def part(number: int, session: Session) -> list[Candidate]:
            for _ in range(20 * (number == slow)):
                await asyncio.sleep(0)
            first = await session.sample(1)
            return [*first, *await session.sample(1)]

        parts = bench.session.split(3)
        found = await bench.session.side_by_side(
            part(number, session) for number, session in enumerate(parts)
        )
        assert len(bench.request.produced) == 6
        return [[f"{each.id} {each.text}" for each in part] for part in found]

    assert await once(0) == await once(2)


async def test_a_part_that_cannot_be_paid_costs_only_itself() -> None:
    bench = Bench(budget=Budget(1_000, 1, 60.0))
    parts = bench.session.split(2)
    found = await bench.session.side_by_side(part.sample(1) for part in parts)
    assert len(found) == 1
    with pytest.raises(BudgetSpent):
        await bench.session.side_by_side(part.sample(1) for part in bench.session.split(2))


async def test_a_part_waits_for_what_another_may_give_back() -> None:
    # 30 tokens: the first part reserves all of them and says one word; the second goes on then.
    bench = Bench(ScriptedEngine(lambda *_: "one", delay=0.001), Budget(30, 9, 60.0))
    bench.session._sampling = Sampling(30)
    parts = bench.session.split(2)
    found = await bench.session.side_by_side(part.sample(1) for part in parts)
    assert [each.text for (each,) in found] == ["one", "one"]
    assert not bench.session.spent


async def test_a_step_is_affordable_while_enough_is_left_to_finish_one() -> None:
    bench = Bench(ScriptedEngine(lambda *_: WORDS), Budget(40, 100, 60.0), verifier=None)
    (root,) = await bench.session.extend(bench.session.blank(1), tokens=20)
    assert bench.session.affords([root])  # 20 left; a quarter, 10, is kept
    (grown,) = await bench.session.extend([root], tokens=10)
    assert not bench.session.affords([grown])
    assert bench.ledger.stopped_by == "tokens"


async def test_calls_are_kept_for_the_end_too() -> None:
    bench = Bench(budget=Budget(1_000, 4, 60.0), verifier=None)
    two = bench.session.blank(2)
    assert not bench.session.affords(two)  # 2 steps, 2 scorings, and the end: 5
    assert bench.ledger.stopped_by == "calls"
    assert bench.session.affords(two[:1])


class Grower(Strategy):
    """Grow one reply by one step and conclude."""

    needs = frozenset({Need.CONTINUATION})

    def samples(self, n: int) -> int:
        return n

    async def run(self, session: Session) -> list[Candidate]:
        assert not session.prompt.constrained
        grown = await session.extend(session.blank(1), ["\n\n"])
        return await session.conclude(grown[0])


def formed(prompt: Prompt, _sampling: Sampling, _index: int) -> str:
    """Think freely, and answer in JSON only where the form rules."""
    if prompt.response_format is None:
        return "thinking\n\n42"
    return json.dumps({"found": str(prompt.messages[-2]["content"])})


async def test_a_form_is_written_after_the_search_and_only_that_streams() -> None:
    prompt = Prompt(({"role": "user", "content": "?"},), response_format={"type": "json_object"})
    engine = ScriptedEngine(formed)
    bench = Bench(engine, prompt=prompt)
    streamed: list[str] = []
    bench.events.subscribe(
        lambda item: streamed.append(item.candidate.text) if isinstance(item, Answer) else None
    )
    outcome = await run(Grower(), bench.session, bench.request)
    assert json.loads(outcome.choices[0].text) == {"found": "thinking\n\n42"}
    assert streamed[-1] == outcome.choices[0].text
    assert not any(text.split("\n")[0] == "thinking" for text in streamed)
    assert outcome.answer == '{"found":"thinking\\n\\n42"}'
    assert bench.ledger.aside == 0
    assert WRITE_DOWN


async def test_the_form_is_written_however_long_the_search() -> None:
    prompt = Prompt(({"role": "user", "content": "?"},), response_format={"type": "json_object"})

    def endless(asked: Prompt, _sampling: Sampling, _index: int) -> str:
        return WORDS if asked.response_format is None else '{"a": 1}'

    bench = Bench(ScriptedEngine(endless), Budget(40, 9, 60.0), prompt=prompt)
    outcome = await run(Grower(), bench.session, bench.request)
    assert outcome.choices[0].text == '{"a": 1}'
    assert bench.ledger.total.completion_tokens == 30 + 2


async def test_a_call_is_kept_to_write_the_form() -> None:
    prompt = Prompt(({"role": "user", "content": "?"},), response_format={"type": "json_object"})
    bench = Bench(ScriptedEngine(formed), Budget(1_000, 2, 60.0), prompt=prompt)
    outcome = await run(Grower(), bench.session, bench.request)
    assert json.loads(outcome.choices[0].text) == {"found": "thinking\n\n"}
    assert bench.ledger.total.calls == 2
