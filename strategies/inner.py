"""A strategy as the parameter of another one: a name, or an object of `type` and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias

from pydantic import (
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializationInfo,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import (
    CoreSchema,
    InitErrorDetails,
    PydanticCustomError,
    core_schema,
    to_json,
)

from strategies.base import Parallel, Strategy, strategy_classes
from verifiers.discovery import type_name

AUTO = "auto"
"""Another name of the strategy that spends by difficulty."""
AUTO_STRATEGY = "compute_optimal"
DEEPEST = 3
"""Strategies in strategies in a strategy: no deeper."""
KNOWN = "strategies"
"""Where the context of a validation gives all classes by name; else there are only our own."""
_DEPTH = "depth"
"""Where a validation keeps how deep it is."""


class _Inner:
    """How pydantic reads, writes and describes the field; classes are found when first asked."""

    def __get_pydantic_core_schema__(
        self, source: type[Strategy], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            _read,
            serialization=core_schema.plain_serializer_function_ser_schema(_write, info_arg=True),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        names = {"type": "string", "examples": list(_own_classes())}
        parameters = {
            "type": "object",
            "properties": {"type": names},
            "required": ["type"],
            "description": "A strategy with its parameters: see /v1/strategies.",
        }
        return {"anyOf": [names, parameters]}


InnerStrategy: TypeAlias = Annotated[Strategy, _Inner()]
"""A field's type: NAME or {"type": NAME, …}; what is wrong inside is told by its dotted path."""


def unalias(name: str) -> str:
    """Return the strategy's own name."""
    return AUTO_STRATEGY if name == AUTO else name


def sampler(told: Mapping[str, Any]) -> Parallel:
    """Build a parallel strategy of its name and parameters.

    Raises:
        ValueError: there is no such strategy, it is not a parallel one, or a parameter is wrong.
    """
    built = _class(told.get("type"), _own_classes()).model_validate(told)
    if not isinstance(built, Parallel):
        raise ValueError(f"{told['type']!r} does not draw independent samples")
    return built


def described(strategy: Strategy) -> dict[str, Any]:
    """Return the parameters that are not the defaults, beside the name: it says whose they are."""
    told = strategy.model_dump(mode="json", exclude_defaults=True)
    return {"type": type_name(type(strategy)), **told}


def levels(strategy: Strategy) -> int:
    """Return how many strategies stand in each other, the outermost included."""
    return 1 + max((levels(part.strategy) for part in strategy.parts()), default=0)


@cache
def _own_classes() -> Mapping[str, type[Strategy]]:
    return MappingProxyType(strategy_classes())


def _read(value: Any, info: ValidationInfo) -> Strategy:
    """Build the strategy, and check how deep it goes: its defaults may hold others."""
    depth = (info.context or {}).get(_DEPTH, 0) + 1
    if depth > DEEPEST:  # before its parts are read: text from outside may be nested without end
        raise _too_deep()
    built = value if isinstance(value, Strategy) else _built(value, info, depth)
    if depth - 1 + levels(built) > DEEPEST:
        raise _too_deep()
    return built


def _too_deep() -> PydanticCustomError:
    return PydanticCustomError("too_deep", f"strategies go at most {DEEPEST} deep")


def _built(value: Any, info: ValidationInfo, depth: int) -> Strategy:
    """Find the class and validate its parameters, JSON strictly."""
    context = {**(info.context or {}), _DEPTH: depth}
    classes = context.get(KNOWN) or _own_classes()
    if isinstance(value, str):
        return _class(value, classes)()
    if not isinstance(value, Mapping):
        raise PydanticCustomError("strategy", "a strategy is a name, or an object with its `type`")
    try:
        cls = _class(value.get("type"), classes)
    except PydanticCustomError as error:
        wrong = InitErrorDetails(type=error, loc=("type",), input=value)
        raise ValidationError.from_exception_data("strategy", [wrong]) from None
    told = {**value, "type": type_name(cls)}
    if info.mode == "json":
        return cls.model_validate_json(to_json(told), strict=True, context=context)
    return cls.model_validate(told, context=context)


def _class(name: object, classes: Mapping[str, type[Strategy]]) -> type[Strategy]:
    if name is None:
        raise PydanticCustomError("missing", "Field required")
    if not isinstance(name, str) or unalias(name) not in classes:
        raise PydanticCustomError("unknown", "there is no strategy {name}", {"name": repr(name)})
    return classes[unalias(name)]


def _write(strategy: Strategy, info: SerializationInfo) -> dict[str, Any]:
    told = strategy.model_dump(mode=info.mode, exclude_defaults=info.exclude_defaults)
    return {"type": type_name(type(strategy)), **told}
