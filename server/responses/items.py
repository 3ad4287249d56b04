"""Items of OpenAI's responses, as clients send them and as they come back: typed dictionaries."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from annotated_types import MaxLen, MinLen
from pydantic import Discriminator, Field, StringConstraints, Tag
from typing_extensions import TypedDict

from server.wire_messages import FAIL_FAST, STRICT, Name

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]
Id: TypeAlias = Annotated[str, MinLen(1), MaxLen(256)]
Nothing: TypeAlias = Annotated[list[Any], MaxLen(0)]


class InputText(TypedDict):
    """Text."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["input_text"]
    """What it is."""
    text: str
    """The text."""


class InputImage(TypedDict):
    """An image inside the request: this server fetches nothing for a client."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["input_image"]
    """What it is."""
    image_url: Annotated[str, StringConstraints(pattern=r"^data:image/")]
    """The image, as a `data:` URL."""
    detail: NotRequired[Literal["auto", "low", "high"] | None]
    """How closely it is looked at."""
    file_id: NotRequired[None]
    """Not supported."""


class OutputText(TypedDict):
    """What the assistant said."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["output_text"]
    """What it is."""
    text: str
    """The text."""
    annotations: NotRequired[Nothing | None]
    """Always empty."""
    logprobs: NotRequired[list[Any] | None]
    """Ignored."""


class Refusal(TypedDict):
    """What the assistant refused with."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["refusal"]
    """What it is."""
    refusal: str
    """What was said."""


class Thought(TypedDict):
    """What the assistant thought."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["reasoning_text"]
    """What it is."""
    text: str
    """The text."""


InputPart: TypeAlias = Annotated[InputText | InputImage, Field(discriminator="type")]
SaidPart: TypeAlias = Annotated[OutputText | Refusal | InputText, Field(discriminator="type")]


class InputMessage(TypedDict):
    """What the user or the operator says."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: NotRequired[Literal["message"]]
    """What it is."""
    role: Literal["user", "system", "developer"]
    """Who speaks."""
    content: str | Annotated[list[InputPart], FAIL_FAST, MinLen(1)]
    """What is said."""
    id: NotRequired[Id | None]
    """The item's; made where it is left out."""
    status: NotRequired[ItemStatus | None]
    """Ignored."""


class SaidMessage(TypedDict):
    """What the assistant said."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: NotRequired[Literal["message"]]
    """What it is."""
    role: Literal["assistant"]
    """Who speaks."""
    content: str | Annotated[list[SaidPart], FAIL_FAST, MinLen(1)]
    """What is said."""
    id: NotRequired[Id | None]
    """The item's; made where it is left out."""
    status: NotRequired[ItemStatus | None]
    """Ignored."""
    phase: NotRequired[Literal["commentary", "final_answer"] | None]
    """Ignored."""


class FunctionCall(TypedDict):
    """A call that the assistant made; `arguments` is JSON as text."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["function_call"]
    """What it is."""
    call_id: Id
    """By which call and output belong together."""
    name: Name
    """Of the function."""
    arguments: str
    """JSON as text."""
    id: NotRequired[Id | None]
    """The item's; made where it is left out."""
    status: NotRequired[ItemStatus | None]
    """Ignored."""


class FunctionOutput(TypedDict):
    """What a function returned."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["function_call_output"]
    """What it is."""
    call_id: Id
    """By which call and output belong together."""
    output: str | Annotated[list[InputText], FAIL_FAST, MinLen(1)]
    """What came back."""
    id: NotRequired[Id | None]
    """The item's; made where it is left out."""
    status: NotRequired[ItemStatus | None]
    """Ignored."""


class Reasoning(TypedDict):
    """What the assistant thought before it spoke."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["reasoning"]
    """What it is."""
    id: NotRequired[Id | None]
    """The item's; made where it is left out."""
    summary: NotRequired[Nothing | None]
    """Always empty."""
    content: NotRequired[Annotated[list[Thought], FAIL_FAST] | None]
    """What is said."""
    encrypted_content: NotRequired[None]
    """Not supported."""
    status: NotRequired[ItemStatus | None]
    """Ignored."""


def _kind(item: Any) -> str | None:
    """Find the class of an item: messages may leave their type out."""
    if not isinstance(item, dict):
        return None
    kind = item.get("type", "message")
    if kind != "message":
        return kind if isinstance(kind, str) else None
    return "said" if item.get("role") == "assistant" else "message"


Item: TypeAlias = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[SaidMessage, Tag("said")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionOutput, Tag("function_call_output")]
    | Annotated[Reasoning, Tag("reasoning")],
    Discriminator(
        _kind,
        custom_error_type="no_such_item",
        custom_error_message="an item is a message, a function_call, a function_call_output or a "
        "reasoning",
    ),
]
