"""Reading what a model says about thoughts: lists, verdicts, grades, votes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.thoughts import grade, listed, verdict, vote, whole
from verifiers.types import Candidate, FinishReason

WORDS = ("sure", "likely", "impossible")


def reply(text: str, finish: FinishReason = "stop") -> Candidate:
    return Candidate("0", text, finish_reason=finish)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("13 - 6 = 7 (left: 7 9 10)\n4 + 9 = 13", ["13 - 6 = 7 (left: 7 9 10)", "4 + 9 = 13"]),
        ("Possible next steps:\n1. add\n 2) subtract\n\n- divide\nStep 3: go", None),
        ("<think>a\nb</think>\nc", ["c"]),
        ("<think>a\nb", []),
        ("DONE", []),
        ("**done**.", []),
        ("DONE is a word", ["DONE is a word"]),
        ("", []),
    ],
)
def test_a_list_is_read_line_by_line_without_its_marks(text: str, items: list[str] | None) -> None:
    expected = ["add", "subtract", "divide", "go"] if items is None else items
    assert listed(reply(text), "DONE") == expected


def test_a_line_that_was_cut_is_not_read() -> None:
    assert listed(reply("one\ntw", "length"), "DONE") == ["one"]
    assert whole(reply("one\ntw", "length"), "DONE") == []
    assert whole(reply(" one\ntwo "), "DONE") == ["one\ntwo"]
    assert whole(reply("Done."), "DONE") == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("sure", "sure"),
        ("It can be reached.\nLikely.", "likely"),
        ("hm\n**Judgement:** impossible", "impossible"),
        ("I am not sure", None),
        ("not sure", None),
        ("unlikely", None),
        ("sure\nor not", None),
        ("sure, likely or impossible", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_line(text: str, word: str | None) -> None:
    assert verdict(reply(text), WORDS) == word


def test_a_verdict_that_was_cut_abstains() -> None:
    assert verdict(reply("sure", "length"), WORDS) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7.0),
        ("fine\nGrade: 8.5", 8.5),
        ("**Grade:** 9/10", 9.0),
        ("11", None),
        ("7 or 8", None),
    ],
)
def test_a_grade_is_the_last_line(text: str, number: float | None) -> None:
    assert grade(reply(text)) == number


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("The best choice is 2", 1),
        ("Choice 1 is bold. The best choice is **Choice 12**.", 11),
        ("3", 2),
        ("the best choice is 1, though at first the best choice is 2", None),
        ("The best choice is 13", None),
        ("The best choice is 0", None),
        ("1 and 2", None),
    ],
)
def test_a_vote_names_one_choice(text: str, place: int | None) -> None:
    assert vote(reply(text), 12) == place


@given(st.text(max_size=300))
def test_no_text_makes_reading_fail(text: str) -> None:
    said = reply(text)
    assert verdict(said, WORDS) in (*WORDS, None)
    number, place = grade(said), vote(said, 5)
    assert number is None or 0 <= number <= 10
    assert place is None or 0 <= place < 5
    assert all(item.strip() == item != "" for item in listed(said, "DONE"))
