"""The rule `json_schema`: what satisfies, what is refused, and that nothing hostile stalls."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.verifiers.test_rules import Rules
from verifiers.base import Verifier
from verifiers.canonical import canonical_json
from verifiers.equality import AnswerEquality
from verifiers.errors import BadRequest
from verifiers.json_schema import JSONSchema, check_schema, json_in
from verifiers.types import Candidate, JSONObject, Prompt, Task

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

MESSAGES = ({"role": "user", "content": "Where is it?"},)
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer", "minimum": 0}},
    "required": ["city"],
    "additionalProperties": False,
}
DRAFT_4 = "http://json-schema.org/draft-04/schema#"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def powers() -> AsyncIterator[Rules]:
    equality = AnswerEquality()
    await equality.start()
    yield Rules(equality)
    await equality.aclose()


def fields(schema: JSONObject | None) -> JSONObject:
    """Return what the server makes of a request's fields."""
    given = {} if schema is None else {"schema": schema}
    return JSONSchema.Fields.model_validate(given).model_dump(exclude_none=True)


async def judge(
    powers: Rules, texts: Sequence[str], schema: JSONObject | None, prompt: Prompt | None = None
) -> list[float | None]:
    candidates = [Candidate(str(n), text, finish_reason="stop") for n, text in enumerate(texts)]
    task = Task(prompt or Prompt(MESSAGES), fields(schema))
    scores = await JSONSchema().score(task, candidates, powers)
    return [None if score.abstained else score.value for score in scores]


async def test_json_that_satisfies_is_1_and_anything_else_0(powers: Rules) -> None:
    replies = [
        '{"city": "Rome"}',
        'I looked it up.\n```json\n{"city": "Rome", "people": 2.0}\n```\nDone.',
        '```\n{"city": 7}\n```\nNo:\n```json\n{"city": "Rome"}\n```',
        '{"city": "Rome", "people": -1}',
        '```json\n{"city": "Rome"}\n```\n```python\nprint()\n```',
        "Rome",
        "",
        '{"city": "Rome"',
        "<think>{}</think>" + '{"city": "Rome"}',
    ]
    assert await judge(powers, replies, CITY) == [1, 1, 1, 0, 0, 0, 0, 0, 1]


async def test_an_unfinished_reply_abstains(powers: Rules) -> None:
    unfinished = [Candidate("a", '{"city": "Rome"}')]
    task = Task(Prompt(MESSAGES), fields(CITY))
    (score,) = await JSONSchema().score(task, unfinished, powers)
    assert (score.value, score.abstained) == (0, True)


async def test_the_schema_may_come_with_the_response_format(powers: Rules) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    prompt = Prompt(MESSAGES, response_format=form)
    assert await judge(powers, ['{"city": "Rome"}', "{}"], None, prompt) == [1, 0]
    assert await judge(powers, ['{"city": "Rome"}', "{}"], {"maxProperties": 0}, prompt) == [0, 1]
    JSONSchema().admit(Task(prompt))


@pytest.mark.parametrize("form", [None, {"type": "json_object"}])
async def test_without_a_schema_it_is_a_bad_request(powers: Rules, form: JSONObject | None) -> None:
    task = Task(Prompt(MESSAGES, response_format=form))
    with pytest.raises(BadRequest) as refused:
        JSONSchema().admit(task)
    assert refused.value.param == "verifier.schema"
    with pytest.raises(BadRequest):
        await JSONSchema().score(task, [], powers)


async def test_a_bad_schema_of_the_response_format_is_refused_by_its_place() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "text"}}}
    with pytest.raises(BadRequest) as refused:
        JSONSchema().admit(Task(Prompt(MESSAGES, response_format=form)))
    assert refused.value.param == "response_format.json_schema.schema"


async def test_the_dialect_is_the_one_that_the_schema_names(powers: Rules) -> None:
    exclusive = {"minimum": 1, "exclusiveMinimum": True}
    assert await judge(powers, ["1", "2"], {"$schema": DRAFT_4, **exclusive}) == [0, 1]
    with pytest.raises(ValidationError, match="not a JSON schema"):
        fields(exclusive)


async def test_references_within_the_schema_and_to_dialects_work(powers: Rules) -> None:
    tree = {
        "$id": "https://example.com/tree",
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "tree"}, "leaf": {"$ref": "#l"}},
        "$defs": {"leaf": {"$anchor": "l", "type": "integer"}},
        "additionalProperties": False,
    }
    replies = ['{"left": {"right": {"leaf": 1}}}', '{"left": {"right": {"leaf": "x"}}}']
    assert await judge(powers, replies, tree) == [1, 0]
    meta = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    assert await judge(powers, ['{"type": "object"}', '{"type": 5}'], meta) == [1, 0]


async def test_null_in_a_schema_survives_the_way_of_the_fields(powers: Rules) -> None:
    assert await judge(powers, ["null", "1"], {"enum": [None]}) == [1, 0]


def nested(keyword: str, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {keyword: schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "text"},
        {"properties": 5},
        {"minLength": -1},
        {"pattern": "("},
        {"pattern": "b(?i:x)"},
        {"pattern": "a" * 501},
        {"patternProperties": {"[z-a]": {}}},
        {"$ref": "http://127.0.0.1:9/other.json"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/$defs/nowhere"},
        {"properties": {"a": {"$dynamicRef": "#nowhere"}}},
        {"$schema": "http://127.0.0.1:9/dialect"},
        {"$schema": 5},
        {"$ref": "http://["},
        {"$id": "http://[", "$ref": "other"},
        nested("not", 32),
        {"enum": list(range(1_000))},
        {"description": "x" * 50_001},
    ],
    ids=lambda schema: str(schema)[:30],
)
async def test_a_bad_schema_is_refused(schema: JSONObject) -> None:
    with pytest.raises(ValidationError):
        fields(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {f"p{n}": {"type": "string"} for n in range(490)}},
        {"$schema": DRAFT_4, "enum": [[n] if n % 2 else n for n in range(660)]},
        {"properties": {f"p{n}": nested("not", 29) for n in range(30)}},
        {"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(480)} | {"d480": {}}},
        {"allOf": [{"pattern": "(" * 50 + "a" + ")*" * 50} for _ in range(100)]},
        {"anyOf": [{"pattern": "[" + "a-z" * 160 + "]"} for _ in range(95)]},
    ],
    ids=["wide", "unsorted", "deep", "chain", "groups", "classes"],
)
async def test_the_check_of_a_schema_is_quick(schema: JSONObject) -> None:
    started = time.process_time()
    check_schema(schema)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"pattern": "(a+)+$"}, '"' + "a" * 40 + 'b"'),
        ({"patternProperties": {"(a|a)+$": {}}}, '{"' + "a" * 40 + 'b": 1}'),
        ({"$ref": "#"}, "1"),
        (
            {
                "$ref": "#/$defs/d0",
                "$defs": {
                    f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)
                }
                | {"d40": {}},
            },
            "1",
        ),
        ({"multipleOf": 0.1}, "1" + "0" * 400),
        ({"$ref": "#/other", "other": {"type": "text"}}, "1"),
        ({"$ref": "#/other", "other": {"properties": 5}}, "{}"),
        ({"items": {"$ref": "#"}}, "[" * 400 + "]" * 400),
        ({"uniqueItems": True}, "[" + ",".join(f"[{n}],{n}" for n in range(20_000)) + "]"),
    ],
    ids=["pattern", "names", "circle", "exponential", "huge", "type", "shape", "deep", "unique"],
)
async def test_nothing_hostile_is_satisfied_or_stalls(
    powers: Rules, schema: JSONObject, text: str
) -> None:
    beats: list[float] = []

    async def tick() -> None:
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.01)

    ticker = asyncio.create_task(tick())
    started = time.monotonic()
    assert await judge(powers, [text], schema) == [0]
    assert time.monotonic() - started < 6
    assert len(beats) > 20 * (time.monotonic() - started)
    ticker.cancel()
    assert await judge(powers, ["1", '"x"'], {"type": "integer"}) == [1, 0]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=6,
)
schemas = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["null", "boolean", "integer", "string", "array", "object"]),
            "minimum": st.integers(-2, 2),
            "maxLength": st.integers(0, 2),
            "maxItems": st.integers(0, 2),
            "required": st.lists(st.sampled_from("ab"), unique=True),
            "enum": st.lists(values, min_size=1, max_size=3),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "not": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "items": inner,
            "properties": st.dictionaries(st.sampled_from("ab"), inner),
        },
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=schemas, value=values)
async def test_it_agrees_with_the_library(powers: Rules, schema: JSONObject, value: Any) -> None:
    text = json.dumps(value)
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert await judge(powers, [text], schema) == [float(expected)]


KEYWORDS = (
    *("$ref", "$dynamicRef", "$recursiveRef", "$id", "id", "$anchor", "$schema", "$defs"),
    *("type", "pattern", "patternProperties", "properties", "items", "allOf", "enum", "required"),
    *("additionalProperties", "dependencies", "dependentSchemas", "extends", "minimum", "format"),
)
DIALECTS = (
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    *(f"http://json-schema.org/draft-0{number}/schema#" for number in (3, 4, 6, 7)),
)
WORDS = ("#", "#/properties/0", "#/enum/type", "#x", "x", "http://[", "string", "(", "", *DIALECTS)
junk = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYWORDS) | st.sampled_from(WORDS), inner, max_size=4)
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYWORDS), junk), st.sampled_from((None, *DIALECTS)))
async def test_a_schema_is_taken_or_refused_and_nothing_else(
    schema: dict[str, Any], dialect: str | None
) -> None:
    given = {**schema, "$schema": dialect} if dialect else schema
    try:
        check_schema(given)
    except ValueError:
        return
    validator = jsonschema.validators.validator_for(given, jsonschema.Draft202012Validator)
    validator.check_schema(given)


@given(st.text(max_size=60) | st.lists(st.sampled_from(["```", "\n", "{}", "[", "json", " "])))
async def test_finding_json_is_total(text: str | list[str]) -> None:
    found = json_in(text if isinstance(text, str) else "".join(text))
    assert found is None or canonical_json(found) == found


async def test_finding_json_takes_linear_time() -> None:
    started = time.process_time()
    json_in("```json\n" * 100_000 + "```\n[" * 100_000)
    assert time.process_time() - started < 2


async def test_it_is_a_rule() -> None:
    verifier: Verifier = JSONSchema()
    assert (verifier.calls, verifier.max_tokens, verifier.logprobs) == (0, 0, None)
