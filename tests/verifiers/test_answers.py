"""Answers: extraction, canonical form, and that no text breaks either."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from verifiers.answers import (
    answer_of,
    canonical,
    canonical_json,
    canonical_tool_calls,
    extract,
)
from verifiers.types import Candidate, Message, Prompt

FREE = Prompt(messages=({"role": "user", "content": "?"},))
JSON = Prompt(messages=FREE.messages, response_format={"type": "json_object"})
REGEX = Prompt(messages=FREE.messages, response_format={"type": "regex", "regex": ".*"})

MATHS_PIECES = [
    "\\boxed{",
    "\\fbox{",
    "}",
    "{",
    "\\frac",
    "\\frac12",
    "\\left(",
    "\\right]",
    "(",
    ")",
    "[",
    "]",
    "\\{",
    "\\}",
    "\\text{",
    "^",
    "_",
    "=",
    ",",
    ";",
    ".",
    "-",
    "+",
    "/",
    "*",
    "**",
    "9",
    "0",
    "1e99",
    "10^3",
    "1,000",
    " ",
    "\n",
    "$",
    "$$",
    "\\(",
    "\\)",
    "%",
    "\\%",
    "x",
    "B",
    "####",
    "####  4",
    "answer is",
    "Answer:",
    " cm",
    " and ",
    "\\pi",
    "\\sqrt",
    "½",
    "²",
    "−",
    "</think>",
    "<think>",
    "million",
    "e",
    "E",
    "\\",
    "\x00",
    '"',
    '{"a":',
    "\u0660",
    "٣",
]
maths = st.lists(st.sampled_from(MATHS_PIECES), max_size=30).map("".join)
any_text = st.one_of(st.text(max_size=200), maths)


def reply(text: str, finish_reason: str | None = "stop", **message: object) -> Candidate:
    parsed = Message(content=text, **message) if message else None  # type: ignore[arg-type]
    return Candidate("0.0", text, message=parsed, finish_reason=finish_reason)  # type: ignore[arg-type]


SAME = [
    ("1,000", "1000"),
    ("1000", "10^3"),
    ("10^3", "10^{3}"),
    ("10³", "1{,}000"),
    ("10**3", "1\\,000"),
    ("1e3", "1.0\\times10^{3}"),
    ("1 thousand", "$1,000.00"),
    ("2 million people", "2000000"),
    ("\\frac12", "0.5"),
    ("\\frac{1}{2}", "1/2"),
    ("\\dfrac{1}{2}", "\\tfrac12"),
    ("\\frac{1}2", "½"),
    (".5", "0.50"),
    ("2/4", "1/2"),
    ("1\\frac{1}{2}", "1.5"),
    ("1 1/2", "3/2"),
    ("-\\frac{1}{2}", "\\frac{-1}{2}"),
    ("−5", "-5"),
    ("-0", "0"),
    ("$5", "5"),
    ("\\$5.00", "5 dollars"),
    ("50\\%", "50"),
    ("50%", "50 percent"),
    ("5 cm", "5\\text{ cm}"),
    ("5\\,\\mathrm{cm}^2", "5 cm^{2}"),
    ("5 km/h", "5"),
    ("12 apples", "12"),
    ("90^\\circ", "90°"),
    ("90^{\\circ}", "90 degrees"),
    ("3\\sqrt{2}\\text{ cm}", "3 \\sqrt2"),
    ("42.", "42"),
    ("**42**", "$42$"),
    ("{1,2}", "\\{2, 1\\}"),
    ("\\left\\{1, 2\\right\\}", "\\{2,1,1\\}"),
    ("\\{0.5,1\\}", "\\{1,\\frac12\\}"),
    ("\\emptyset", "\\{\\}"),
    ("\\left(1, 2\\right]", "(1,2]"),
    ("(1,000, 2)", "(1000,2)"),
    ("(0.5, 1)", "(\\frac{1}{2},1)"),
    ("1 and 2", "1, 2"),
    ("x = 5", "5"),
    ("2 + 3 = 5", "5"),
    ("x \\in [0, 1]", "[0,1]"),
    ("(b)", "B"),
    ("B.", "b"),
    ("\\text{(B)}", "B) Paris"),
    ("Paris", "paris."),
    ("New  York", "\\text{new york}"),
    ("x^{2} + 1", "x^2+1"),
    ('{"a": 1.0, "b": [2]}', '{"b":[2],"a":1}'),
]
DIFFERENT = [
    ("1000", "100"),
    ("1.000", "1000"),
    ("0.5", "0.05"),
    ("5", "-5"),
    ("5x", "5"),
    ("5m", "5"),
    ("5 dozen", "5"),
    ("2 am", "2 pm"),
    ("3 pi", "3"),
    ("5 million", "5"),
    ("1 2", "12"),
    ("12", "1,2"),
    ("1,000", "1,0"),
    ("(1,000)", "(1,0)"),
    ("(1,2)", "[1,2]"),
    ("(1,2]", "[1,2)"),
    ("(1,2)", "(2,1)"),
    ("\\{1,2\\}", "(1,2)"),
    ("1,2", "2,1"),
    ("x=1,y=2", "x=2,y=1"),
    ("A", "B"),
    ("Paris", "Rome"),
    ("x", "X"),
    ("1/0", "0"),
    ("\\pi r", "\\pir"),
    ("9**9**9**9", "9**9**9"),
    ("1e999999", "1e999998"),
    ('{"a":1}', '{"a":2}'),
    ('{"a":"x y"}', '{"a":"xy"}'),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_different_writings_of_one_answer_have_one_key(left: str, right: str) -> None:
    assert canonical(left) == canonical(right)


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_different_answers_have_different_keys(left: str, right: str) -> None:
    assert canonical(left) != canonical(right)


@pytest.mark.parametrize("answer", sorted({text for pair in SAME + DIFFERENT for text in pair}))
def test_a_key_is_its_own_key(answer: str) -> None:
    assert canonical(canonical(answer)) == canonical(answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So \\boxed{4}. No: \\boxed{\\frac{1}{\\sqrt{2}}}.", "\\frac{1}{\\sqrt{2}}"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\fbox{7} cm", "7"),
        ("It is \\boxed 5.", "5"),
        ("$\\boxed 5$", "5"),
        ("\\boxed{\\left\\{1,2\\right.}", "\\left\\{1,2\\right."),
        ("\\boxed{5} The answer is 6.", "5"),
        ("\\boxed{1} and \\boxed{2", None),
        ("\\boxed{", None),
        ("\\boxed{}", None),
        ("2 + 2 = 4\n#### 1,018", "1,018"),
        ("#### 1. Speed\nIt is fast.", None),
        ("#### Step 4", None),
        ("#### 18\nThe answer is 17.", "18"),
        ("The answer is 42.", "42"),
        ("The answer is 4. Sorry, the answer is 5.", "5"),
        ("the final answer is $\\frac{1}{2}$, as shown.", "\\frac{1}{2}"),
        ("The answer is:\n\n$$\nx^2\n$$\n", "x^2"),
        ("**Answer:** 42 apples", "42 apples"),
        ("Final Answer: \\(x=3\\)", "x=3"),
        ("The answer is $5 because he paid $10.", "5"),
        ("The answer is 42 because 6 * 7 = 42.", "42"),
        ("The answer to the question is Paris, the capital of France.", "Paris"),
        ("The answer is (1, 2).", "(1, 2)"),
        ("Answer: (B), since A is wrong.", "B"),
        ("The answer is **B**. Others are wrong.", "B"),
        ("The correct answer is: C) Rome", "C"),
        ("The answer is not 5.", None),
        ("I think it is 5, maybe 6.", None),
        ("", None),
    ],
)
def test_extraction(text: str, answer: str | None) -> None:
    assert extract(text) == answer


def test_lenient_extraction_takes_the_last_number() -> None:
    assert extract("First 5, then 6,000, and -7.5 in all.", lenient=True) == "-7.5"
    assert extract("no number", lenient=True) is None
    assert extract("\\boxed{8} and 9", lenient=True) == "8"


@given(any_text)
def test_the_last_box_wins(before: str) -> None:
    assert extract(before + " \\boxed{\\frac{17}{4}}") == "\\frac{17}{4}"


@given(st.recursive(st.just("7"), lambda inner: inner.map(lambda text: f"\\sqrt{{{text}}}")))
def test_nested_braces_are_kept(content: str) -> None:
    assert extract(f"first \\boxed{{3}}, then \\boxed{{{content}}} and {{more}}") == content


@given(st.text(alphabet="abc .,!?\n", max_size=300))
def test_prose_without_a_mark_abstains(text: str) -> None:
    assert extract(text) is None


@given(any_text)
@example("9**9**9**9")
@example("1e999999999")
@example("(" * 900)
@example("1," * 400)
@example('{"a":' * 300)
@example("=" * 900)
def test_no_text_raises(text: str) -> None:
    for prompt in (FREE, JSON, REGEX):
        for finish_reason in ("stop", "length", None):
            answer_of(reply(text, finish_reason), prompt)
    extract(text, lenient=True)
    key = canonical(text)
    assert isinstance(key, str)
    assert len(key) <= 20 * len(text) + 1_000


@settings(deadline=None)
@given(any_text.filter(bool), st.integers(1, 3_000))
def test_no_repetition_takes_long(piece: str, times: int) -> None:
    text = (piece * times)[:60_000]
    started = time.process_time()
    extract(text, lenient=True)
    canonical(text)
    canonical(text[:1_000])
    assert time.process_time() - started < 0.5


@given(st.fractions(max_denominator=10**6))
def test_numbers_keep_their_value(value: object) -> None:
    assert canonical(str(value)) == str(value)


@given(st.lists(st.integers(-99, 99), min_size=1, max_size=6), st.randoms())
def test_a_set_has_no_order(numbers: list[int], random: object) -> None:
    shuffled = sorted(numbers, key=lambda _: random.random())  # type: ignore[attr-defined]
    first, second = ("\\{" + ", ".join(map(str, items)) + "\\}" for items in (numbers, shuffled))
    assert canonical(first) == canonical(second)


def test_thinking_is_no_answer() -> None:
    assert answer_of(reply("<think>\\boxed{3}</think>\\boxed{4}"), FREE) == "4"
    assert (
        answer_of(reply("\\boxed{3}</think>no box, only a longer line of prose follows"), FREE)
        is None
    )
    assert answer_of(reply("<think>so \\boxed{3}"), FREE) is None
    assert answer_of(reply("\\boxed{4}", reasoning="\\boxed{3}"), FREE) == "4"
    assert answer_of(reply("", reasoning="\\boxed{3}"), FREE) is None


@pytest.mark.parametrize("finish_reason", ["length", None])
def test_a_cut_reply_votes_only_with_what_is_certain(finish_reason: str | None) -> None:
    def cut(text: str, prompt: Prompt = FREE) -> str | None:
        return answer_of(reply(text, finish_reason), prompt)

    assert cut("It is \\boxed{12}, as") == "12"
    assert cut("It is \\boxed{1") is None
    assert cut("It is \\boxed 1") is None
    assert cut("It is \\boxed 12 and") == "12"
    assert cut("The answer is 1") is None
    assert cut("The answer is 12.\nLet me") == "12"
    assert cut("42") is None
    assert cut('{"a": 1}', JSON) == '{"a":1}'
    assert cut('{"a": 1', JSON) is None
    assert cut("12", JSON) is None
    assert cut("12", REGEX) is None


def test_a_short_reply_is_an_answer_as_a_whole() -> None:
    assert answer_of(reply(" Paris.\n"), FREE) == "Paris"
    assert answer_of(reply("42"), FREE) == "42"
    assert answer_of(reply("It might be\n42"), FREE) is None
    assert answer_of(reply("I would rather not say what it is, or why."), FREE) is None
    assert answer_of(reply("  "), FREE) is None
    assert answer_of(reply("\\boxed{5"), FREE) is None
    assert answer_of(reply("The answer is not 5."), FREE) is None


def test_json_has_one_form() -> None:
    assert answer_of(reply('{"b": [1.0, 2], "a": "ü"}'), JSON) == '{"a":"ü","b":[1,2]}'
    assert answer_of(reply("Sure: {}"), JSON) is None
    for broken in ("", "{", "[" * 100_000, "NaN", "[Infinity]", "1e999", '"\\ud800"', "1" * 5_000):
        assert canonical_json(broken) is None
    assert answer_of(reply(" yes "), REGEX) == "yes"


def test_tool_calls_have_one_form() -> None:
    def call(name: str, arguments: str) -> dict[str, object]:
        return {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}

    left = reply("", tool_calls=(call("f", '{"b": 1, "a": 2}'), call("g", "")))
    right = reply("other words", tool_calls=(call("f", '{"a":2,"b":1.0}'), call("g", "{}")))
    assert answer_of(left, FREE) == answer_of(right, FREE) != None  # noqa: E711
    assert canonical(answer_of(left, FREE) or "") == answer_of(left, FREE)
    swapped = canonical_tool_calls(left.tool_calls[::-1])
    assert swapped != answer_of(left, FREE)
    assert answer_of(reply("", tool_calls=(call("f", "{"),)), FREE) is None
    assert answer_of(reply("", "length", tool_calls=(call("f", "{}"),)), FREE) is None
