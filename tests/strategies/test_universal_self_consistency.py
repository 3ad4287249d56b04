"""Universal self-consistency: what is asked, how the verdict is read, what stands in for it."""

from __future__ import annotations

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.budget import Budget, Stage
from strategies.universal_self_consistency import (
    QUESTION,
    UniversalSelfConsistency,
    chosen,
    ending,
)
from tests.strategies.harness import QUESTION as CONVERSATION
from tests.strategies.harness import Bench
from verifiers.types import Prompt, Sampling

TEXTS = ("a \\boxed{1}", "b \\boxed{2}", "c \\boxed{2}")


class Room:
    """Three replies, and a verdict on them."""

    def __init__(self, verdict: str, texts: tuple[str, ...] = TEXTS) -> None:
        self.verdict, self.texts = verdict, texts
        self.asked: list[tuple[Prompt, Sampling]] = []
        self.engine = ScriptedEngine(self.say)

    def say(self, prompt: Prompt, sampling: Sampling, index: int) -> str:
        if len(prompt.messages) == 1:
            return self.texts[sampling.first + index]
        self.asked.append((prompt, sampling))
        return self.verdict


SENTENCE = "The most consistent response is Response {}."


async def test_the_model_chooses() -> None:
    room = Room(SENTENCE.format(1))
    bench = Bench(room.engine, n=3, sampling=Sampling(64, temperature=1.0, stop=("Response",)))
    outcome = await bench.run(UniversalSelfConsistency(n=3))
    assert [each.text for each in outcome.choices] == list(TEXTS)
    assert outcome.answer == "1"
    ((prompt, sampling),) = room.asked
    assert prompt.messages == (
        *CONVERSATION,
        {
            "role": "assistant",
            "content": "Response 1: a \\boxed{1}\n\nResponse 2: b \\boxed{2}"
            "\n\nResponse 3: c \\boxed{2}",
        },
        {"role": "user", "content": QUESTION},
    )
    assert (sampling.temperature, sampling.stop) == (0.0, ())
    assert bench.ledger.usage[Stage.SAMPLE].calls == 4
    assert len(outcome.candidates) == 3
    assert bench.ledger.total.completion_tokens == room.engine.log["tokens"]


async def test_the_chosen_comes_first_and_the_others_keep_their_order() -> None:
    bench = Bench(Room(SENTENCE.format(2)).engine, n=3)
    outcome = await bench.run(UniversalSelfConsistency(n=3))
    assert [each.text[0] for each in outcome.choices] == ["b", "a", "c"]


@pytest.mark.parametrize("verdict", ["I cannot say.", SENTENCE.format(4), SENTENCE.format(0), ""])
async def test_an_unreadable_verdict_leaves_it_to_the_vote(verdict: str) -> None:
    outcome = await Bench(Room(verdict).engine).run(UniversalSelfConsistency(n=3))
    assert (outcome.answer, outcome.agreement, outcome.stopped_by) == ("2", 2 / 3, None)


async def test_without_answers_the_likeliest_reply_stands_in() -> None:
    texts = tuple(f"{word} and more words that are no answer at all to it" for word in "abc")
    outcome = await Bench(Room("?", texts).engine, n=3).run(UniversalSelfConsistency(n=3))
    likely = [each.mean_logprob for each in outcome.choices]
    assert likely == sorted(likely, reverse=True)
    assert len(set(likely)) > 1


async def test_a_budget_that_ends_before_the_question_votes() -> None:
    room = Room(SENTENCE.format(1))
    bench = Bench(room.engine, Budget(100_000, 3, 60.0))
    outcome = await bench.run(UniversalSelfConsistency(n=3))
    assert (outcome.answer, outcome.stopped_by, room.asked) == ("2", "calls", [])


async def test_one_reply_is_not_asked_about() -> None:
    room = Room(SENTENCE.format(1))
    outcome = await Bench(room.engine).run(UniversalSelfConsistency(n=1))
    assert (outcome.answer, room.asked) == ("1", [])


async def test_long_replies_are_shown_by_their_last_lines() -> None:
    texts = ("thinking\nabout it\n\\boxed{1}", "\\boxed{2}")
    room = Room(SENTENCE.format(1), texts)
    await Bench(room.engine).run(UniversalSelfConsistency(n=2, characters=40))
    ((prompt, _),) = room.asked
    listed = "Response 1: about it\n\\boxed{1}\n\nResponse 2: \\boxed{2}"
    assert prompt.messages[1]["content"] == listed


def test_the_ending_is_whole_lines_where_one_fits() -> None:
    text = "one\ntwo\nthree"
    assert ending(text, 13) == text
    assert ending(text, 12) == "two\nthree"
    assert ending(text, 9) == "two\nthree"
    assert ending(text, 8) == "three"
    assert ending(text, 5) == "three"
    assert ending(text, 4) == "hree"


@pytest.mark.parametrize(
    ("verdict", "place"),
    [
        ("The most consistent response is Response 3", 2),
        ('"The most consistent response is **Response 3**."', 2),
        ("the most consistent response is: response #3, as Response 1 and Response 2 differ", 2),
        ("They agree. The most consistent response is Response 3.", 2),
        (
            "Most consistent response is Response 3. So: most consistent response is Response 3",
            2,
        ),
        ("3", 2),
        ("Response 3.", 2),
        ("**3**", 2),
        (
            "Most consistent response is Response 3. No: most consistent response is Response 1",
            None,
        ),
        ("Response 3 and Response 1", None),
        ("The most consistent response is 42", None),
        ("The most consistent response is Response 9", None),
        ("The most consistent response is Response X", None),
        ("There are 3 of them", None),
        ("-", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_strictly(verdict: str, place: int | None) -> None:
    assert chosen(verdict, 5) == place


def test_the_question_is_in_the_worst_case() -> None:
    strategy = UniversalSelfConsistency()
    assert (strategy.samples(1), strategy.choices(1)) == (9, 8)
