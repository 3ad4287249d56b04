"""Beam search on a table of token probabilities, small enough to search by hand."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.budget import Budget
from strategies.events import EventKind
from strategies.token_beam import TokenBeam
from tests.strategies import conformance
from tests.strategies.harness import Bench
from verifiers.types import (
    Capabilities,
    Chunk,
    Continuation,
    Prompt,
    Sampling,
    TokenLogprob,
    Usage,
)

END = 0
TOKENS = ("<end>", "A", "B", "x", "y", "z", "\ufffd")
ABLE = Capabilities(1_000, Continuation.TOKEN_IDS, logprobs=20, counts_live=True, end_tokens=(END,))

Table = Mapping[str, Mapping[str, float]]

GREEDY_IS_WRONG: Table = {
    "": {"A": 0.6, "B": 0.4},
    "A": {"x": 0.55, "y": 0.45},
    "B": {"z": 0.95, "x": 0.05},
}
"""A x has .33, A y .27, B z .38; what is not in the table ends."""


class TableEngine:
    """Draws the likeliest token; whatever the text, the table says what can follow."""

    model = "table"

    def __init__(self, table: Table, capabilities: Capabilities = ABLE) -> None:
        self.table, self.capabilities = table, capabilities
        self.made = 0

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        assert sampling.temperature == 0
        ids = list(prompt.reply.token_ids) if prompt.reply else []
        for index in range(n):
            said, entries = list(ids), []
            while len(said) - len(ids) < sampling.max_tokens and said[-1:] != [END]:
                text = "".join(TOKENS[token] for token in said)
                chances = self.table.get(text, {"<end>": 1.0})
                ranked = sorted(chances, key=lambda token: -chances[token])
                top = tuple((token, math.log(chances[token])) for token in ranked)
                top_ids = tuple(map(TOKENS.index, ranked))
                entries.append(TokenLogprob(*top[0], top, top_ids))
                said.append(top_ids[0])
            self.made += len(entries)
            new = said[len(ids) :]
            yield Chunk(
                index,
                "".join(TOKENS[token] for token in new if token != END),
                tuple(new),
                tuple(entries),
                finish_reason="stop" if said[-1] == END else "length",
                usage=Usage(completion_tokens=len(new)),
            )

    @property
    def statistics(self) -> Mapping[str, float]:
        return {}

    async def count_tokens(self, prompt: Prompt) -> int:
        return 1

    async def tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(map(TOKENS.index, text))

    async def aclose(self) -> None:
        pass


def bench(table: Table, budget: Budget | None = None, cap: int = 16) -> Bench:
    budget = budget or Budget(1_000, 1_000, 60.0)
    return Bench(TableEngine(table), budget, sampling=Sampling(cap, logprobs=0))


@pytest.mark.parametrize(
    ("width", "text", "chance"), [(1, "Ax", 0.6 * 0.55), (2, "Bz", 0.4 * 0.95), (4, "Bz", 0.38)]
)
async def test_a_beam_finds_what_greedy_decoding_misses(
    width: int, text: str, chance: float
) -> None:
    at = bench(GREEDY_IS_WRONG)
    outcome = await at.run(TokenBeam(width=width))
    best = outcome.choices[0]
    assert (best.text, best.finish_reason, best.token_ids[-1]) == (text, "stop", END)
    assert best.score == pytest.approx(math.log(chance) / 3)
    assert best.tokens == len(best.token_ids) == len(best.logprobs) == 3
    assert at.ledger.total.completion_tokens == at.engine.made  # type: ignore[attr-defined]
    assert conformance.cut_off(at) == []
    assert at.at_rest()


async def test_all_beams_are_ranked_and_are_candidates() -> None:
    at = bench(GREEDY_IS_WRONG)
    at.session.n = 3
    outcome = await at.run(TokenBeam(width=3))
    assert [each.text for each in outcome.choices] == ["Bz", "Ax", "Ay"]
    assert {each.id for each in outcome.choices} <= {each.id for each in outcome.candidates}
    assert len({each.id for each in outcome.choices}) == 3


async def test_every_position_costs_a_token_of_each_beam() -> None:
    at = bench(GREEDY_IS_WRONG)
    await at.run(TokenBeam(width=2))
    # One beam at first; then A, B; then B z and A x, which end.
    assert at.ledger.total.completion_tokens == 1 + 2 + 2


SHORT_OR_LONG: Table = {
    "": {"A": 0.5, "<end>": 0.3, "B": 0.2},
    "A": {"x": 0.6, "y": 0.4},
    "Ax": {"y": 0.9, "z": 0.1},
}


@pytest.mark.parametrize(("penalty", "text"), [(0.0, ""), (1.0, "Axy")])
async def test_the_length_penalty_lets_long_replies_win(penalty: float, text: str) -> None:
    # The end at once has .3; A x y has .5 · .6 · .9 = .27, but over 4 tokens.
    at = bench(SHORT_OR_LONG)
    outcome = await at.run(TokenBeam(width=2, length_penalty=penalty))
    assert outcome.choices[0].text == text
    length = len(outcome.choices[0].token_ids)
    expected = math.log(0.27 if text else 0.3) / length**penalty
    assert outcome.choices[0].score == pytest.approx(expected)


async def test_it_stops_once_no_beam_is_better_than_what_has_ended() -> None:
    # After two positions A and B have ended with .45 and .36; A x, .05, goes no further.
    table: Table = {
        "": {"A": 0.5, "B": 0.4, "z": 0.1},
        "A": {"<end>": 0.9, "x": 0.1},
        "B": {"<end>": 0.9, "x": 0.1},
        **{"A" + "x" * n: {"x": 1.0} for n in range(1, 12)},
    }
    at = bench(table)
    at.session.n = 2
    outcome = await at.run(TokenBeam(width=2))
    assert [each.text for each in outcome.choices] == ["A", "B"]
    assert at.ledger.total.completion_tokens == 2 + 2  # two beginnings, as two are wanted


async def test_a_budget_that_ends_has_the_best_beam_finished_greedily() -> None:
    table: Table = {"": {"A": 0.6, "B": 0.4}, **{"A" + "x" * n: {"x": 1.0} for n in range(6)}}
    at = bench(table, Budget(1_000, 7, 60.0))
    outcome = await at.run(TokenBeam(width=2))
    assert outcome.stopped_by == "calls"
    assert outcome.choices[0].text in ("Axxxxxx", "B")
    assert outcome.choices[0].done
    assert at.ledger.total.calls <= 7


async def test_a_reply_as_long_as_it_may_be_has_ended() -> None:
    table: Table = {"x" * n: {"x": 0.9, "y": 0.1} for n in range(20)}
    at = bench(table, cap=3)
    at.session.n = 2
    outcome = await at.run(TokenBeam(width=2))
    assert [each.finish_reason for each in outcome.choices] == ["length", "stop"]
    assert outcome.choices[0].text == "xxx"
    assert (
        at.ledger.total.completion_tokens
        <= TokenBeam(width=2).worst_case(1, 3, None, at.budget).tokens
    )


async def test_half_a_character_goes_on_only_where_it_is_the_likeliest() -> None:
    table: Table = {"": {"A": 0.6, "\ufffd": 0.4}}
    outcome = await bench(table).run(TokenBeam(width=2))
    assert {each.text for each in outcome.candidates} == {"A"}


def test_it_needs_token_ids_and_twice_its_width_in_alternatives() -> None:
    beam = TokenBeam(width=4)
    assert beam.unavailable(ABLE) is None
    assert "7 of the 8" in str(beam.unavailable(replace(ABLE, logprobs=7)))
    assert beam.unavailable(replace(ABLE, logprobs=None))
    assert "token ids" in str(beam.unavailable(replace(ABLE, continuation=Continuation.TEXT)))


async def test_the_scripted_engine_goes_on_after_an_alternative() -> None:
    at = Bench(ScriptedEngine(lambda *_: "a b c d"), sampling=Sampling(8, logprobs=0))
    (drawn,) = await at.session.extend(at.session.blank(1), tokens=1, logprobs=4)
    entry = drawn.logprobs[0]
    assert entry.top_ids[0] == drawn.token_ids[0]
    assert len(set(entry.top_ids)) == len(entry.top) == 4
    other = replace(drawn, text=entry.top[1][0], token_ids=(entry.top_ids[1],))
    (grown,) = await at.session.extend([other], tokens=2)
    assert grown.text == "a~1a b"


@pytest.mark.parametrize(
    ("width", "table", "ended"),
    [
        # B is the parent of nothing that goes on: A x and A y have .35, B z has .12.
        (2, {"": {"A": 0.7, "B": 0.3}, "A": {"x": 0.5, "y": 0.5}, "B": {"z": 0.4}}, 2),
        # B, the last beam, goes on when three have ended: z, A and the end at once.
        (3, {"": {"z": 0.4, "A": 0.3, "<end>": 0.2, "B": 0.1}, "B": {"x": 0.3, "y": 0.3}}, 3),
    ],
)
async def test_what_goes_no_further_was_given_up(width: int, table: Table, ended: int) -> None:
    at = bench(table)
    outcome = await at.run(TokenBeam(width=width))
    assert sum(each.done for each in outcome.candidates) == ended
    assert conformance.cut_off(at) == []
    pruned = {event.data["id"] for event in at.events.events if event.kind is EventKind.PRUNED}
    assert not pruned & {each.id for each in outcome.candidates if each.done}
