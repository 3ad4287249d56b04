"""The rule `json_schema`: the reply is JSON that satisfies a schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY
from pydantic import ConfigDict, Field, field_validator
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from verifiers.answers import canonical_json
from verifiers.base import RequestFields, Verifier
from verifiers.errors import BadRequest
from verifiers.reference import verdicts
from verifiers.regex import compiling
from verifiers.types import Candidate, JSONObject, Powers, Score, Task

_MOST_VALUES = 1_000
_LONGEST = 50_000
"""Characters of all names and strings together."""
_LONGEST_PATTERN = 500
_DEEPEST = 32
_FENCE = "```"


class JSONSchemaFields(RequestFields):
    """The schema to satisfy."""

    model_config = ConfigDict(validate_by_alias=True, validate_by_name=True)

    json_schema: dict[str, Any] | None = Field(
        None,
        alias="schema",
        description="A JSON schema (draft 2020-12, or what its `$schema` names) without references "
        "to other documents; default: that of the request's `response_format`.",
    )

    @field_validator("json_schema")
    @classmethod
    def _usable(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None:
            check_schema(schema)
        return schema


class JSONSchema(Verifier):
    """JSON that satisfies a schema, as the whole reply or in its last fenced block.

    A finished reply without JSON scores 0, as what was asked for is certainly not there: if it
    abstained, whoever else judges it would decide. An unfinished reply abstains. `format` is not
    enforced. Checking runs in the killable processes of the answer comparison, with their time
    limits: what cannot be decided there in time does not satisfy the schema.
    """

    paper = "JSON Schema, draft 2020-12, https://json-schema.org/draft/2020-12"
    Fields = JSONSchemaFields

    type: Literal["json_schema"] = "json_schema"

    def admit(self, task: Task) -> None:
        """Refuse a request before any work. Raises BadRequest: it has no schema, or not a good one.

        One among the verifier's own fields was checked when these were read.
        """
        schema = schema_of(task)
        if task.fields.get("json_schema") is None:
            try:
                check_schema(schema)
            except ValueError as error:
                raise BadRequest(str(error), param="response_format.json_schema.schema") from error

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Score 1 where the schema is satisfied, else 0. Raises BadRequest: there is no schema."""
        schema = schema_of(task)
        texts = [json_in(each.content) if each.done else None for each in candidates]
        written = [text for text in texts if text is not None]
        satisfied = iter(await powers.equivalence.conforms(schema, written))
        return verdicts(
            (text is not None and next(satisfied)) if candidate.done else None
            for candidate, text in zip(candidates, texts, strict=True)
        )


def schema_of(task: Task) -> JSONObject:
    """Return the schema that the request gives the verifier, or else the reply's own form."""
    schema: JSONObject | None = task.fields.get("json_schema")
    if schema is None:
        schema = (task.prompt.response_format or {}).get("json_schema", {}).get("schema")
    if schema is None:
        raise BadRequest("give a schema here or in `response_format`", param="verifier.schema")
    return schema


def json_in(content: str) -> str | None:
    """Return the JSON that a reply is, or has in its last fenced block; None: there is none."""
    visible = content.rpartition("</think>")[2]
    found = canonical_json(visible)
    if found is None and (block := _last_block(visible)) is not None:
        found = canonical_json(block)
    return found


def _last_block(text: str) -> str | None:
    """Return what the last closed fence holds; line by line, as a pattern could take for ever."""
    block: str | None = None
    lines: list[str] | None = None
    for line in text.split("\n"):
        if line.lstrip().startswith(_FENCE):
            if lines is not None:
                block = "\n".join(lines)
            lines = [] if lines is None else None
        elif lines is not None:
            lines.append(line)
    return block


def check_schema(schema: JSONObject) -> None:
    """Raise ValueError if this is no schema, or one too large to be looked at here.

    Nothing is fetched. Within the limits the check takes milliseconds; patterns, which may take
    for ever, are compiled here but only matched where they can be interrupted.
    """
    _check_limits(schema)
    dialect = schema.get("$schema")
    if not isinstance(dialect, str | None):
        raise ValueError("is not a JSON schema: `$schema` is no string")
    validator = validator_for(schema, default=None if dialect else Draft202012Validator)
    if validator is None:
        raise ValueError(f"there is no dialect {dialect!r} of JSON schemas here")
    try:
        validator.check_schema(schema, format_checker=FormatChecker(()))
        root = Resource.from_contents(schema, default_specification=DRAFT202012)
        _check_part(root, REGISTRY.resolver_with_root(root))
    except SchemaError as error:
        raise ValueError(f"is not a JSON schema: {error.message[:300]}") from error
    except RecursionError as error:
        raise ValueError("its references are nested too deeply") from error


def _check_limits(schema: JSONObject) -> None:
    values = characters = 0
    level: list[Any] = [schema]
    for _ in range(_DEEPEST):
        values += len(level)
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                characters += sum(map(len, value))
                deeper += value.values()
            elif isinstance(value, list):
                deeper += value
            elif isinstance(value, str):
                characters += len(value)
        level = deeper
        if values + len(level) > _MOST_VALUES or characters > _LONGEST:
            raise ValueError(f"has more than {_MOST_VALUES} values or {_LONGEST} characters")
    if level:
        raise ValueError(f"is nested deeper than {_DEEPEST}")


def _check_part(part: Resource[Any], resolver: Any) -> None:
    """Look up the references of a part and of those in it, and compile the patterns."""
    if not isinstance(part.contents, dict):
        return  # true or false
    for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
        if keyword in part.contents:
            _look_up(part.contents[keyword], resolver)
    patterns = list(part.contents.get("patternProperties", ()))
    if "pattern" in part.contents:
        patterns.append(part.contents["pattern"])
    for pattern in patterns:
        if len(pattern) > _LONGEST_PATTERN:
            raise ValueError(f"has a pattern of more than {_LONGEST_PATTERN} characters")
        compiling(pattern)
    for each in part.subresources():
        _check_part(each, resolver.in_subresource(each))


def _look_up(reference: Any, resolver: Any) -> None:
    """Find what a part refers to. The oldest dialects do not say that a reference is a string."""
    try:
        resolver.lookup(reference)
    except (Unresolvable, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"refers to {str(reference)[:200]!r}, which is not in it") from error
