"""Rule verifiers: right is 1, wrong is 0, no answer abstains."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from pydantic import ValidationError

from verifiers.base import Verifier, verifier_classes
from verifiers.equality import AnswerEquality
from verifiers.exact import Exact
from verifiers.math import Math
from verifiers.numeric import Numeric
from verifiers.regex import Regex
from verifiers.types import Candidate, Equivalence, Prompt, Task

FREE = Prompt(messages=({"role": "user", "content": "?"},))
JSON = Prompt(messages=FREE.messages, response_format={"type": "json_object"})

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Rules:
    """The powers of a rule: it compares answers and asks no engine."""

    def __init__(self, equivalence: Equivalence) -> None:
        self.equivalence = equivalence

    async def ask(
        self,
        prompts: Sequence[Prompt],
        n: int = 1,
        *,
        engine: str | None = None,
        **sampling: Any,
    ) -> list[list[Candidate]]:
        raise AssertionError("a rule asks nobody")

    async def tokenize(self, text: str, *, engine: str | None = None) -> tuple[int, ...]:
        raise AssertionError("a rule asks nobody")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def powers() -> AsyncIterator[Rules]:
    equality = AnswerEquality()
    yield Rules(equality)
    await equality.aclose()


async def judge(
    verifier: Verifier, powers: Rules, texts: Sequence[str], prompt: Prompt = FREE, **fields: Any
) -> list[float | None]:
    """Return the values; None for an abstention."""
    verifier.Fields.model_validate(fields)
    candidates = [Candidate(str(n), text, finish_reason="stop") for n, text in enumerate(texts)]
    scores = await verifier.score(Task(prompt, fields), candidates, powers)
    assert all(score.value == 0 for score in scores if score.abstained)
    return [None if score.abstained else score.value for score in scores]


PROSE = "I cannot say what the answer might be here"


async def test_math(powers: Rules) -> None:
    replies = ["\\boxed{\\sqrt{12}}", "So \\boxed{2\\sqrt3}.", "\\boxed{3\\sqrt2}", PROSE, "3.4641"]
    expected = [1, 1, 0, None, 0]
    assert await judge(Math(), powers, replies, reference="2\\sqrt{3}") == expected
    worked = "We add.\n\\boxed{2\\sqrt{3}}"
    assert await judge(Math(), powers, replies, reference=worked) == expected


async def test_math_compares_choices_and_json(powers: Rules) -> None:
    assert await judge(Math(), powers, ["Answer: (B)", "C.", "b"], reference="B") == [1, 0, 1]
    replies = ['{"a": 1, "b": 2}', '{"a": 2}', "{"]
    assert await judge(Math(), powers, replies, JSON, reference='{"b":2, "a":1}') == [1, 0, None]


async def test_numeric(powers: Rules) -> None:
    replies = ["\\boxed{1/3}", "0.333", "0.34", "$0.33\\overline{3}$", PROSE]
    values = await judge(Numeric(tolerance=1e-3), powers, replies, reference="0.3333")
    assert values == [1, 1, 0, None, None]
    exact = await judge(Numeric(), powers, ["1,000", "1000.1"], reference="10^3", tolerance=0)
    assert exact == [1, 0]
    relative = await judge(Numeric(), powers, ["1010"], reference="1000", tolerance=0.01)
    assert relative == [1]


async def test_numeric_lenient_takes_the_last_number(powers: Rules) -> None:
    text = "First there are 3 of them, and in the end there are 42 in all of it"
    assert await judge(Numeric(), powers, [text], reference="42") == [None]
    assert await judge(Numeric(lenient=True), powers, [text], reference="42") == [1]


async def test_exact(powers: Rules) -> None:
    replies = ["Paris", "paris", "The answer is  Paris.", "\\boxed{Paris}", PROSE]
    assert await judge(Exact(), powers, replies, reference="Paris ") == [1, 0, 1, 1, None]
    folded = await judge(Exact(ignore_case=True), powers, replies[:2], reference="PARIS")
    assert folded == [1, 1]
    whole = await judge(Exact(whole=True), powers, replies, reference="Paris")
    assert whole == [1, 0, 0, 0, 0]
    spaces = await judge(Exact(whole=True, ignore_space=False), powers, ["a  b"], reference="a b")
    assert spaces == [0]


async def test_regex(powers: Rules) -> None:
    assert await judge(Regex(), powers, ["code 42", "none"], pattern=r"\b\d+\b") == [1, 0]
    assert await judge(Regex(), powers, ["Yes", "NO"], pattern="(?i)^yes$") == [1, 0]


async def test_a_pattern_cannot_hang(powers: Rules) -> None:
    started = time.monotonic()
    assert await judge(Regex(), powers, ["a" * 50 + "b", "a"], pattern="(a|a)+$") == [0, 1]
    assert time.monotonic() - started < 8


async def test_unfinished_replies_abstain(powers: Rules) -> None:
    cut = [Candidate("a", "42"), Candidate("b", "\\boxed{42} and")]
    rules = {
        "math": ("reference", "42"),
        "numeric": ("reference", "42"),
        "exact": ("reference", "42"),
    }
    for name, (field, value) in rules.items():
        verifier = verifier_classes()[name]()
        scores = await verifier.score(Task(FREE, {field: value}), cut, powers)
        assert [(score.value, score.abstained) for score in scores] == [(0, True), (1, False)]
    scores = await Regex().score(Task(FREE, {"pattern": "4"}), cut, powers)
    assert [score.abstained for score in scores] == [True, True]


@pytest.mark.parametrize("name", ["math", "numeric", "exact", "regex"])
async def test_request_fields_are_declared_and_needed(name: str) -> None:
    fields = verifier_classes()[name].Fields
    with pytest.raises(ValidationError):
        fields.model_validate({})
    with pytest.raises(ValidationError):
        fields.model_validate({"reference": "1", "pattern": "1", "other": 1})


@pytest.mark.parametrize(
    "pattern",
    ["(", "", "a" * 501, "(" * 500, "[z-a]", "a{99999999999}", "(?P<n>x)(?P<n>y)", "b(?i:x)"],
)
async def test_a_bad_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError):
        Regex.Fields.model_validate({"pattern": pattern})


async def test_a_reference_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValidationError):
        Numeric.Fields.model_validate({"reference": "Paris"})
    Numeric.Fields.model_validate({"reference": "The answer is $1,000."})
