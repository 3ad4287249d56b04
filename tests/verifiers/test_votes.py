"""Votes: the order of the samples never matters, and every tie has its rule."""

import asyncio
import math
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.equality import AnswerEquality
from verifiers.types import UNSCORED, Candidate, Message, Prompt, TokenLogprob
from verifiers.votes import Votes, gather_votes

FREE = Prompt(messages=({"role": "user", "content": "?"},))
JSON = Prompt(messages=FREE.messages, response_format={"type": "json_object"})


class Literal:
    """Keys are compared as they are, but for the pairs that it is told."""

    def __init__(self, *same: tuple[str, str]) -> None:
        self._same = {frozenset(pair) for pair in same}
        self.calls = 0

    async def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        self.calls += 1
        return [frozenset(pair) in self._same for pair in pairs]

    async def matches(self, pattern: str, texts: Sequence[str]) -> list[bool]:
        raise AssertionError("votes match no patterns")


def sample(
    name: str,
    text: str,
    *,
    score: float = UNSCORED,
    logprob: float | None = None,
    finish_reason: str | None = "stop",
) -> Candidate:
    logprobs = () if logprob is None else (TokenLogprob("", logprob),)
    return Candidate(name, text, logprobs=logprobs, finish_reason=finish_reason, score=score)  # type: ignore[arg-type]


def box(
    name: str, answer: str, *, score: float = UNSCORED, logprob: float | None = None
) -> Candidate:
    return sample(name, f"So \\boxed{{{answer}}}", score=score, logprob=logprob)


async def vote(*candidates: Candidate, **weights: float) -> Votes:
    return await gather_votes(candidates, FREE, Literal(), weights or None)


scores = st.one_of(st.just(UNSCORED), st.sampled_from([0.0, 0.5, 1.0]))
logprobs = st.one_of(st.none(), st.sampled_from([-math.inf, -2.0, -1.0]))
marked = [
    "\\boxed{1}",
    "\\boxed{1.0}",
    "\\boxed{2}",
    "\\boxed{\\frac22}",
    "\\boxed{x}",
    "\\boxed{y}",
]
unmarked = ["no answer here, only a sentence that is long", "", "\\boxed{", "The answer is 2."]
texts = st.sampled_from([*marked, *unmarked])
samples = st.builds(
    sample,
    st.just(""),
    texts,
    score=scores,
    logprob=logprobs,
    finish_reason=st.sampled_from(["stop", "length", None]),
)


@st.composite
def electorates(
    draw: st.DrawFn,
) -> tuple[list[Candidate], list[Candidate], dict[str, float] | None]:
    voters = draw(st.lists(samples, max_size=12))
    named = [
        sample(
            f"0.{n}",
            voter.text,
            score=voter.score,
            logprob=voter.mean_logprob if voter.logprobs else None,
            finish_reason=voter.finish_reason,
        )
        for n, voter in enumerate(voters)
    ]
    weights = draw(st.one_of(st.none(), st.just({v.id: draw(st.floats(0, 1)) for v in named})))
    return named, draw(st.permutations(named)), weights


@given(electorates())
def test_the_order_of_samples_never_matters(
    electorate: tuple[list[Candidate], list[Candidate], dict[str, float] | None],
) -> None:
    candidates, shuffled, weights = electorate
    equivalence = Literal(("1", "x"), ("x", "y"))
    first = asyncio.run(gather_votes(candidates, FREE, equivalence, weights))
    second = asyncio.run(gather_votes(shuffled, FREE, equivalence, weights))
    assert first == second
    assert first.ranked == second.ranked
    assert sorted(c.id for c in first.ranked) == sorted(c.id for c in candidates)
    assert first.agreement is None or 0 <= first.agreement <= 1


@given(electorates())
def test_unparsed_samples_never_vote(
    electorate: tuple[list[Candidate], list[Candidate], dict[str, float] | None],
) -> None:
    candidates, _, weights = electorate
    votes = asyncio.run(gather_votes(candidates, FREE, Literal(), weights))
    for voter in (member for cls in votes.classes for member in cls.members):
        assert "\\boxed{" in voter.text or voter.text == "The answer is 2."
    clear = [candidate for candidate in candidates if candidate not in votes.abstained]
    again = asyncio.run(gather_votes(clear, FREE, Literal(), weights))
    assert again.classes == votes.classes
    assert again.abstentions == 0


async def test_the_majority_wins_however_it_is_written() -> None:
    votes = await vote(
        box("a", "1/3"), box("b", "1/2"), box("c", "0.5"), box("d", "\\frac12"), box("e", "0.5")
    )
    assert votes.answer == "0.5"
    assert votes.agreement == pytest.approx(4 / 5)
    assert [len(cls.members) for cls in votes.classes] == [4, 1]


async def test_weights_decide_over_numbers() -> None:
    votes = await vote(box("a", "1"), box("b", "1"), box("c", "2"), a=0.1, b=0.2, c=0.9)
    assert votes.answer == "2"
    assert votes.agreement == pytest.approx(0.75)


async def test_ties_by_score_then_votes_then_logprob_then_answer() -> None:
    by_score = await vote(box("a", "1", score=0.2), box("b", "2", score=0.7))
    assert by_score.answer == "2"
    by_votes = await vote(box("a", "2"), box("b", "1"), box("c", "1"), a=1, b=0.5, c=0.5)
    assert by_votes.answer == "1"
    by_logprob = await vote(box("a", "1", logprob=-2), box("b", "2", logprob=-1))
    assert by_logprob.answer == "2"
    by_answer = await vote(box("a", "2"), box("b", "1"))
    assert by_answer.answer == "1"


async def test_the_representative_is_the_best_member() -> None:
    votes = await vote(
        box("a", "1", score=0.2, logprob=-1),
        box("b", "1", score=0.9, logprob=-3),
        box("c", "1", score=0.9, logprob=-2),
    )
    assert [member.id for member in votes.classes[0].members] == ["c", "b", "a"]


async def test_ranking_shows_each_class_first() -> None:
    votes = await vote(
        box("a", "1", score=0.5),
        box("b", "1", score=0.9),
        box("c", "2"),
        sample("d", "nothing that anyone could ever call an answer", logprob=-1),
    )
    assert [candidate.id for candidate in votes.ranked] == ["b", "c", "a", "d"]
    assert votes.abstentions == 1


async def test_all_abstain() -> None:
    prose = "nothing that anyone could ever call an answer"
    votes = await vote(
        sample("a", prose, logprob=-1, finish_reason=None),
        sample("b", prose, logprob=-3),
        sample("c", prose, logprob=-2),
    )
    assert (votes.answer, votes.agreement, votes.classes) == (None, None, ())
    assert [candidate.id for candidate in votes.ranked] == ["c", "b", "a"]


async def test_nobody_votes() -> None:
    votes = await vote()
    assert (votes.ranked, votes.answer, votes.agreement) == ([], None, None)


async def test_equality_is_closed_transitively_in_one_call() -> None:
    equivalence = Literal(("x", "y"), ("y", "z"))
    candidates = [box(letter, letter) for letter in "zxwy"]
    votes = await gather_votes(candidates, FREE, equivalence)
    assert [{c.id for c in cls.members} for cls in votes.classes] == [{"x", "y", "z"}, {"w"}]
    assert equivalence.calls == 1


async def test_symbolic_equality_joins_classes() -> None:
    equality = AnswerEquality()
    candidates = [box("a", "\\sqrt{12}"), box("b", "2\\sqrt3"), box("c", "3\\sqrt2")]
    votes = await gather_votes(candidates, FREE, equality)
    await equality.aclose()
    assert votes.answer == "2\\sqrt3"
    assert votes.agreement == pytest.approx(2 / 3)


async def test_json_votes_by_its_canonical_form_and_never_symbolically() -> None:
    equivalence = Literal()
    candidates = [
        sample("a", '{"x": 1, "y": "a b"}'),
        sample("b", '{"y":"a b","x":1.0}'),
        sample("c", '{"x": 1, "y": "ab"}'),
        sample("d", "{"),
    ]
    votes = await gather_votes(candidates, JSON, equivalence)
    assert votes.answer == '{"x":1,"y":"a b"}'
    assert (len(votes.classes), votes.abstentions, equivalence.calls) == (2, 1, 0)


async def test_tool_calls_vote_by_name_and_arguments() -> None:
    def caller(name: str, arguments: str) -> Candidate:
        call = {"id": name, "type": "function", "function": {"name": "f", "arguments": arguments}}
        return Candidate(name, message=Message(tool_calls=(call,)), finish_reason="tool_calls")

    votes = await vote(
        caller("a", '{"q": 1, "r": 2}'), caller("b", '{"q": 3}'), caller("c", '{"r":2,"q":1}')
    )
    assert {member.id for member in votes.classes[0].members} == {"a", "c"}
    assert Fraction(votes.agreement or 0).limit_denominator(9) == Fraction(2, 3)
