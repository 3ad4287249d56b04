"""Bounds on the JSON schemas and patterns of a request: engines compile grammars of them.

A schema of a kilobyte can stand for a grammar of gigabytes. Engines find that out while they
compile it, beside everyone's tokens, so it is refused before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from verifiers.errors import BadRequest

MOST_VALUES = 20_000
MOST_CHARACTERS = 400_000
DEEPEST = 64
LONGEST_PATTERN = 4096
MOST_REPEATS = 20_000
"""What a pattern, its repetitions written out, may come to; also the least and most that a schema
may count items or characters by."""

_COUNTS = frozenset(
    {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
)
_PIECES = re.compile(r"\\.|\{(\d*)(,?)(\d*)\}|.", re.DOTALL)


def check_schema_bounds(schema: Mapping[str, Any], param: str) -> None:
    """Refuse a schema that an engine could choke on; `param` is the field that holds it.

    Raises:
        BadRequest
    """
    values = characters = 0
    level: list[Any] = [schema]
    for _ in range(DEEPEST):
        values += len(level)
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                _check_object(value, param)
                characters += sum(map(len, value))
                deeper += value.values()
            elif isinstance(value, list):
                deeper += value
            elif isinstance(value, str):
                characters += len(value)
        level = deeper
        if values + len(level) > MOST_VALUES or characters > MOST_CHARACTERS:
            told = f"the schema has more than {MOST_VALUES} values or {MOST_CHARACTERS} characters"
            raise BadRequest(told, param=param)
    if level:
        raise BadRequest(f"the schema is nested deeper than {DEEPEST}", param=param)
    _check_references(schema, param)


def check_pattern_bounds(pattern: str, param: str) -> None:
    """Refuse a pattern that is too long, or short for one that is. Raises BadRequest."""
    if len(pattern) > LONGEST_PATTERN:
        raise BadRequest(f"a pattern has at most {LONGEST_PATTERN} characters", param=param)
    if written_out(pattern) > MOST_REPEATS:
        raise BadRequest("the pattern repeats too much", param=param)


def written_out(pattern: str) -> int:
    """Return how many places a pattern has when its bounded repetitions are written out."""
    totals, lasts = [0], [0]
    """Of each open group: its places, and those of its last part."""
    in_class = False
    for piece in _PIECES.finditer(pattern):
        text = piece[0]
        if in_class:
            in_class = text != "]"
        elif text == "(":
            totals.append(0)
            lasts.append(0)
        elif text == ")" and len(totals) > 1:
            lasts.pop()
            lasts[-1] = max(1, totals.pop())
            totals[-1] += lasts[-1]
        elif text[0] == "{" and len(text) > 1 and (piece[1] or piece[3]):
            count = min(int((piece[3] or piece[1])[:9]), MOST_REPEATS + 1)
            totals[-1] += lasts[-1] * (max(1, count) - 1)
            lasts[-1] *= max(1, count)
        else:
            in_class = text == "["
            lasts[-1] = 1
            totals[-1] += 1
    return sum(totals)


def _check_object(value: Mapping[str, Any], param: str) -> None:
    patterns = [value["pattern"]] if isinstance(value.get("pattern"), str) else []
    if isinstance(named := value.get("patternProperties"), dict):
        patterns += named
    for pattern in patterns:
        check_pattern_bounds(pattern, param)
    for keyword in _COUNTS & value.keys():
        count = value[keyword]
        if isinstance(count, int | float) and count > MOST_REPEATS:
            raise BadRequest(f"`{keyword}` may be at most {MOST_REPEATS}", param=param)


def _check_references(schema: Mapping[str, Any], param: str) -> None:
    """Refuse a schema that is nothing but a reference to itself, however far around."""
    place, seen = "#", set()
    current: Any = schema
    while isinstance(current, dict) and isinstance(current.get("$ref"), str):
        seen.add(place)
        place = current["$ref"]
        if place in seen:
            raise BadRequest("the schema refers to nothing but itself", param=param)
        current = _find(schema, place)


def _find(schema: Mapping[str, Any], reference: str) -> Any:
    if not reference.startswith("#"):
        return None
    found: Any = schema
    for part in filter(None, reference[1:].split("/")):
        found = found.get(part) if isinstance(found, dict) else None
    return found
