"""Messages, tools and formats of a request: typed dictionaries that stay what the client sent."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from annotated_types import MaxLen, MinLen
from pydantic import ConfigDict, Field, StringConstraints
from typing_extensions import TypedDict

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
FAIL_FAST = Field(fail_fast=True)
"""For lists: a client is told one error, and a million cost seconds to make."""

Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.:-]{1,64}$")]


class TextPart(TypedDict):
    """Text."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["text"]
    """That it is text."""
    text: str
    """The text."""


class RefusalPart(TypedDict):
    """What the assistant refused with."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["refusal"]
    """That it is a refusal."""
    refusal: str
    """What was said."""


class ImageURL(TypedDict):
    """An image inside the request: this server fetches nothing for a client."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    url: Annotated[str, StringConstraints(pattern=r"^data:image/")]
    """A `data:` URL with the image in base64."""
    detail: NotRequired[Literal["auto", "low", "high"]]
    """How closely to look."""


class ImagePart(TypedDict):
    """An image."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["image_url"]
    """That it is an image."""
    image_url: ImageURL
    """The image."""


UserPart: TypeAlias = Annotated[TextPart | ImagePart, Field(discriminator="type")]
AssistantPart: TypeAlias = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class SystemMessage(TypedDict):
    """What the operator says."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    role: Literal["system", "developer"]
    """Who speaks; both mean the same."""
    content: str | Annotated[list[TextPart], FAIL_FAST, MinLen(1)]
    """What is said."""
    name: NotRequired[str | None]
    """A name that tells speakers of one role apart."""


class UserMessage(TypedDict):
    """What the user says."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    role: Literal["user"]
    """Who speaks."""
    content: str | Annotated[list[UserPart], FAIL_FAST, MinLen(1)]
    """What is said, or shown."""
    name: NotRequired[str | None]
    """A name that tells users apart."""


class CalledFunction(TypedDict):
    """The function that the assistant called; `arguments` is JSON as text."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    name: Name
    """Of one of the tools."""
    arguments: str
    """JSON as text."""


class ToolCall(TypedDict):
    """A call that the assistant made."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    id: str
    """By which the tool's message answers."""
    type: Literal["function"]
    """That a function is called."""
    function: CalledFunction
    """What is called with what."""


class AssistantMessage(TypedDict):
    """An earlier reply. Whatever our own replies hold may be sent back as it is."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    role: Literal["assistant"]
    """Who speaks."""
    content: NotRequired[str | Annotated[list[AssistantPart], FAIL_FAST, MinLen(1)] | None]
    """What was said; a reply without it has tool calls."""
    name: NotRequired[str | None]
    """A name that tells assistants apart."""
    refusal: NotRequired[str | None]
    """What was refused with."""
    reasoning: NotRequired[str | None]
    """What was thought."""
    reasoning_content: NotRequired[str | None]
    """Another name of `reasoning`."""
    tool_calls: NotRequired[Annotated[list[ToolCall], FAIL_FAST, MaxLen(128)] | None]
    """Calls that the reply made."""
    audio: NotRequired[None]
    """Always null."""
    function_call: NotRequired[None]
    """Always null."""
    annotations: NotRequired[Annotated[list[Any], MaxLen(0)] | None]
    """Always empty."""


class ToolMessage(TypedDict):
    """What a tool returned."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    role: Literal["tool"]
    """Who speaks."""
    content: str | Annotated[list[TextPart], FAIL_FAST, MinLen(1)]
    """What the tool returned."""
    tool_call_id: str
    """The call that is answered."""
    name: NotRequired[str | None]
    """The tool's."""


Message: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(TypedDict):
    """A function that the model may call; `parameters` is a JSON schema."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    name: Name
    """By which it is called."""
    description: NotRequired[str | None]
    """What it does, for the model."""
    parameters: NotRequired[dict[str, Any] | None]
    """JSON schema of its arguments."""
    strict: NotRequired[bool | None]
    """Whether arguments must fit the schema."""


class Tool(TypedDict):
    """A tool."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["function"]
    """That it is a function."""
    function: Function
    """The function."""


class FunctionName(TypedDict):
    """The name of one of the tools."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    name: Name
    """Of one of the tools."""


class NamedTool(TypedDict):
    """The one tool that has to be called."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["function"]
    """That it is a function."""
    function: FunctionName
    """Which one."""


class TextFormat(TypedDict):
    """Free text."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["text"]
    """That the form is free."""


class JSONObjectFormat(TypedDict):
    """Any JSON object."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["json_object"]
    """That the reply is a JSON object."""


class NamedSchema(TypedDict):
    """A JSON schema."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    name: Name
    """Of the schema."""
    description: NotRequired[str | None]
    """What it is for."""
    schema: NotRequired[dict[str, Any]]
    """The JSON schema; left out, any JSON fits."""
    strict: NotRequired[bool | None]
    """Accepted without effect: replies always fit."""


class JSONSchemaFormat(TypedDict):
    """JSON that fits a schema."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["json_schema"]
    """That the reply is JSON that fits a schema."""
    json_schema: NamedSchema
    """The schema."""


class RegexFormat(TypedDict):
    """Text that fits a regular expression (ours)."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["regex"]
    """That the reply fits a regular expression."""
    regex: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """The expression, for the whole reply."""


ResponseFormat: TypeAlias = Annotated[
    TextFormat | JSONObjectFormat | JSONSchemaFormat | RegexFormat, Field(discriminator="type")
]
