"""Schemas and patterns that an engine could choke on are refused before any engine sees them."""

from typing import Any

import pytest

from server.schemas import (
    DEEPEST,
    LONGEST_PATTERN,
    MOST_REPEATS,
    MOST_VALUES,
    check_pattern_bounds,
    check_schema_bounds,
    written_out,
)
from verifiers.errors import BadRequest


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        ("", 0),
        ("abc", 3),
        (r"\d{4}-\d{2}", 4 + 1 + 2),
        ("[a-z]{3}", 3),
        (r"[\]{9}]x", 2),
        ("(ab){5}", 10),
        ("((a{2}b){3}c){4}", 4 * (3 * (2 + 1) + 1)),
        ("a{2,}", 2),
        ("a{,7}", 7),
        ("a{0}", 1),
        ("(a+)+$", 2 + 1 + 1),
        ("{", 1),
        (r"\{9\}", 3),
        (")(", 1),
    ],
)
def test_patterns_written_out(pattern: str, places: int) -> None:
    assert written_out(pattern) == places


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"x": {"type": "integer", "maximum": 10**9}}},
        {"$defs": {"tree": {"properties": {"left": {"$ref": "#/$defs/tree"}}}}},
        {"properties": {"child": {"$ref": "#"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "string"}}},
        {"type": "string", "maxLength": MOST_REPEATS},
        {"properties": {"pattern": {"type": "string"}, "maxLength": {"type": "integer"}}},
        nested(DEEPEST - 1),
        {"pattern": r"^[a-z]{1,64}@[a-z]{1,253}\.[a-z]{2,}$"},
    ],
)
def test_ordinary_schemas_pass(schema: dict[str, Any]) -> None:
    check_schema_bounds(schema, "here")


@pytest.mark.parametrize(
    "schema",
    [
        nested(DEEPEST),
        {"enum": list(range(MOST_VALUES))},
        {"description": "x" * 400_001},
        {"maxLength": 10**9},
        {"properties": {"x": {"minItems": 1e308}}},
        {"pattern": "((a{1,99}){1,99}){1,99}"},
        {"patternProperties": {"x{99999}": {}}},
        {"pattern": "a" * (LONGEST_PATTERN + 1)},
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    ],
)
def test_bombs_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as raised:
        check_schema_bounds(schema, "here")
    assert raised.value.param == "here"


def test_patterns_are_bounded() -> None:
    check_pattern_bounds("(yes|no)", "regex")
    with pytest.raises(BadRequest):
        check_pattern_bounds("(a{1,1000}){1,1000}", "regex")
