r"""The cheap key of an answer: two answers with one key are the same answer.

`canonical` reads LaTeX and prose alike: `\frac12`, `1/2` and `0.5` have one key, so have `1,000`,
`$1000$` and `10^3`. Every function here is total and takes time linear in its input but for
constants: numbers are built by `fractions.Fraction` within fixed digits, nothing is evaluated.
What a key cannot decide, `verifiers.equality` can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from verifiers.notation import expression, tidy
from verifiers.numbers import number_key, parse_number, strip_unit
from verifiers.types import JSONObject

LONGEST = 1_000
"""Characters; a longer answer is prose and only its white space is normalised."""

_DEEPEST = 3
"""Collections nested deeper are compared as they are written."""

_INTEGER = re.compile(r"-?[0-9]{1,400}")
_CHOICE = re.compile(r"\(\s*([A-Ja-j])\s*\)|([A-Ja-d])[.):]?|([A-J])\)")
_CHOICE_AND_TEXT = re.compile(r"(?:\(([A-J])\)|([A-J])[):]|([A-E])\.(?!\s*[A-Z]\.))\s+\S")
_DEFINITION = re.compile(r"(?:[A-Za-z](?:_\{?\w\}?)?|[^A-Za-z=<>\\,]*)\s*(?:=|\\in(?![a-z]))")
_FORMULA = re.compile(r"[\\^_={}()\[\]+*/<>|]")
_WORD = re.compile(r"^[^\W\d_]{2}|[^\W\d_]{3}")
_THOUSANDS = re.compile(r"(?<=[0-9]),0[0-9]{2}(?![0-9])")
_CONJUNCTION = re.compile(r",?\s+(?:and|or)\s+")
_OPENERS, _CLOSERS = "([{", ")]}"


def canonical(answer: str) -> str:
    """Return the key of a free-text answer; the empty string if nothing is left of it."""
    text = answer.strip()
    if _INTEGER.fullmatch(text):
        return str(int(text))
    if text.startswith(("{", "[")):
        structured = _json_with_objects(text)
        if structured is not None:
            return structured
    if len(text) > LONGEST:
        return " ".join(text.split())
    return _key(tidy(text), 0)


def canonical_json(text: str) -> str | None:
    """Return JSON with sorted keys, without spaces; None if it is not JSON or not Unicode."""
    try:
        return _dumps(json.loads(text, parse_constant=_refuse, parse_float=_finite))
    except (ValueError, RecursionError):
        return None


def canonical_tool_calls(tool_calls: Sequence[JSONObject]) -> str | None:
    """Return names and arguments in call order as JSON; None if any arguments are not JSON."""
    calls = []
    for call in tool_calls:
        function = call["function"]
        arguments = canonical_json(function["arguments"] or "{}")
        if arguments is None:
            return None
        calls.append({"name": function["name"], "arguments": json.loads(arguments)})
    return _dumps(calls)


def bracketed(text: str) -> str:
    r"""Return the brackets around a collection, such as `(]` or `{}`; empty if there are none."""
    if len(text) < 2:
        return ""
    inner = text.removeprefix("\\")
    if inner[:1] not in tuple(_OPENERS) or text[-1] not in _CLOSERS or not _encloses(inner):
        return ""
    brackets = inner[0] + text[-1]
    if brackets == "{}":
        return brackets
    items = split(inner[1:-1])
    return brackets if "{" not in brackets and "}" not in brackets and len(items) > 1 else ""


def split(text: str) -> list[str]:
    """Split at commas and semicolons, but not in brackets and not in `1,000`."""
    items, start, depth = [], 0, 0
    for place, character in enumerate(text):
        if character in _OPENERS:
            depth += 1
        elif character in _CLOSERS:
            depth -= 1
        elif depth == 0 and character in ",;" and not _THOUSANDS.match(text, place):
            items.append(text[start:place])
            start = place + 1
    return [*items, text[start:]]


def _key(text: str, depth: int) -> str:
    text = text.strip().rstrip(".,;: ")
    choice = _choice(text) if depth == 0 else ""
    if choice:
        return choice
    if depth == 0:
        text = _value(text)
    number = parse_number(text)
    if number is not None:
        return number_key(number)
    text, number = strip_unit(text)
    if number is not None:
        return number_key(number)
    collection = _collection(text, depth) if depth < _DEEPEST else ""
    if collection:
        return collection
    if _WORD.search(text) and not _FORMULA.search(text):
        return " ".join(text.casefold().split())
    return expression(text)


def _choice(text: str) -> str:
    """Return the letter of a multiple-choice answer."""
    match = _CHOICE.fullmatch(text) or _CHOICE_AND_TEXT.match(text)
    return next((group.upper() for group in match.groups() if group), "") if match else ""


def _value(text: str) -> str:
    r"""Return the right-hand side of `x = 5`, `x \in [0,1]` and `2 + 3 = 5`."""
    value = text
    while match := _DEFINITION.match(value):
        value = value[match.end() :].strip()
    return value if value and "=" not in value else text


def _collection(text: str, depth: int) -> str:
    brackets = bracketed(text)
    if brackets == "{}":
        escaped = text.startswith("\\")
        body = text.removeprefix("\\")[1:-1].removesuffix("\\")
        keys = {_key(item, depth + 1) for item in _items(body)} - {""}
        if not escaped and len(keys) == 1:
            return keys.pop()
        return r"\{" + ",".join(sorted(keys)) + r"\}" if keys else r"\emptyset"
    body = text[1:-1] if brackets else text
    items = _items(body)
    if len(items) < 2:
        return ""
    listed = ",".join(_key(item, depth + 1) for item in items)
    return brackets[:1] + listed + brackets[1:]


def _items(text: str) -> list[str]:
    return split(_CONJUNCTION.sub(",", text))


def _encloses(text: str) -> bool:
    """Tell whether the first bracket closes with the last character, and not before."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in _OPENERS) - (character in _CLOSERS)
        if depth == 0:
            return place == len(text) - 1
    return False


def _json_with_objects(text: str) -> str | None:
    """Return canonical JSON of an object or of a list of objects: `[1, 2]` is an interval."""
    form = canonical_json(text)
    return form if form is not None and '{"' in form else None


def _dumps(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    text.encode()  # a lone surrogate cannot be sent to anyone
    return text


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _finite(literal: str) -> float | int:
    """Read 1.0 as 1, as JSON has one number type."""
    value = float(literal)
    if value in (float("inf"), float("-inf")):
        raise ValueError(literal)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
