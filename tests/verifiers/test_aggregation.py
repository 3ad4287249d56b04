"""Steps: how a reply is cut into them, and how they make one score."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.aggregation import Aggregation, aggregate
from verifiers.steps import BLANK_LINE, prefixes, step_ends, token_ends
from verifiers.types import Candidate, Reply, TokenLogprob

TEXTS = st.text("ab \n", max_size=40)


@pytest.mark.parametrize(
    ("how", "score"),
    [("last", 0.5), ("min", 0.2), ("product", 0.08), ("mean", 0.5), ("max", 0.8)],
)
def test_each_aggregation_by_hand(how: Aggregation, score: float) -> None:
    assert aggregate((0.2, 0.8, 0.5), how) == pytest.approx(score)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_aggregations_of_probabilities_are_ordered_probabilities(steps: list[float]) -> None:
    product, least, mean, most = (
        aggregate(steps, how) for how in ("product", "min", "mean", "max")
    )
    assert 0 <= product <= least <= mean + 1e-12
    assert mean <= most + 1e-12 <= 1 + 1e-12


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", []),
        ("\n\n  \n\n", []),
        ("One.", ["One."]),
        ("One.\n\n", ["One.\n\n"]),
        ("One.\n\nTwo.", ["One.\n\n", "Two."]),
        ("\n\nOne.\n\n\n\n\nTwo.\n\n\n", ["\n\nOne.\n\n", "\n\n\nTwo.\n\n"]),
    ],
)
def test_a_step_holds_its_separator_and_the_blanks_before_it(text: str, steps: list[str]) -> None:
    ends = step_ends(text, BLANK_LINE)
    assert [text[start:end] for start, end in zip((0, *ends), ends, strict=False)] == steps


@given(TEXTS, st.integers(0, 40))
def test_a_reply_that_grows_keeps_the_ends_of_its_steps(text: str, length: int) -> None:
    before, after = step_ends(text[:length], BLANK_LINE), step_ends(text, BLANK_LINE)
    whole = before if text[:length].endswith(BLANK_LINE) else before[:-1]
    assert after[: len(whole)] == whole


@given(TEXTS, st.integers(1, 5))
def test_what_exceeds_the_most_steps_belongs_to_the_last(text: str, most: int) -> None:
    ends = step_ends(text, BLANK_LINE)
    bounded = step_ends(text, BLANK_LINE, most)
    assert len(bounded) == min(most, len(ends))
    assert bounded[:-1] == ends[: len(bounded) - 1]
    assert bounded[-1:] == ends[-1:]


@given(st.lists(st.sampled_from(["a", "b.", "\n", "\n\n", "\n\n\n", ".\n\n", " "]), max_size=12))
def test_tokens_cover_each_step_and_not_one_more(tokens: list[str]) -> None:
    text = "".join(tokens)
    ends = step_ends(text, BLANK_LINE)
    for end, count in zip(ends, token_ends(tokens, text, ends), strict=True):
        assert len("".join(tokens[: count - 1])) < end <= len("".join(tokens[:count]))


def test_tokens_of_another_text_cover_nothing() -> None:
    assert token_ends(["a", "b"], "abc", [3]) == []
    assert token_ends(["a", "b", "<end>"], "ab", [1, 2]) == [1, 2]


def test_prefixes_are_tokens_where_their_texts_are_known() -> None:
    text = "One.\n\n\nTwo."
    ends = step_ends(text, BLANK_LINE)
    pieces = ("One", ".\n\n\n", "Two", ".", "<end>")
    entries = tuple(TokenLogprob(piece, -1.0) for piece in pieces)
    known = Candidate("0", text, (7, 8, 9, 10, 2), logprobs=entries)
    assert prefixes(known, ends) == [Reply("One.\n\n\n", (7, 8)), Reply(text, (7, 8, 9, 10))]
    put_in = Candidate("0", text, (7, 8, 9, 10, 11, 2), logprobs=entries)
    for unknown in (put_in, Candidate("0", text), Candidate("0", text, logprobs=entries)):
        assert prefixes(unknown, ends) == [Reply("One.\n\n"), Reply(text)]
