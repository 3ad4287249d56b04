"""Messages, tools and formats of a request: typed dictionaries that stay what the client sent."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from annotated_types import MaxLen, MinLen
from pydantic import ConfigDict, Field, StringConstraints
from typing_extensions import TypedDict

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.:-]{1,64}$")]


class TextPart(TypedDict):
    """Text."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["text"]
    text: str


class RefusalPart(TypedDict):
    """What the assistant refused with."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["refusal"]
    refusal: str


class ImageURL(TypedDict):
    """An image inside the request: this server fetches nothing for a client."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    url: Annotated[str, StringConstraints(pattern=r"^data:image/")]
    detail: NotRequired[Literal["auto", "low", "high"]]


class ImagePart(TypedDict):
    """An image."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["image_url"]
    image_url: ImageURL


UserPart: TypeAlias = Annotated[TextPart | ImagePart, Field(discriminator="type")]
AssistantPart: TypeAlias = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class SystemMessage(TypedDict):
    """What the operator says."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    role: Literal["system", "developer"]
    content: str | Annotated[list[TextPart], MinLen(1)]
    name: NotRequired[str | None]


class UserMessage(TypedDict):
    """What the user says."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    role: Literal["user"]
    content: str | Annotated[list[UserPart], MinLen(1)]
    name: NotRequired[str | None]


class CalledFunction(TypedDict):
    """The function that the assistant called; `arguments` is JSON as text."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    name: Name
    arguments: str


class ToolCall(TypedDict):
    """A call that the assistant made."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(TypedDict):
    """An earlier reply. Whatever our own replies hold may be sent back as it is."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    role: Literal["assistant"]
    content: NotRequired[str | Annotated[list[AssistantPart], MinLen(1)] | None]
    name: NotRequired[str | None]
    refusal: NotRequired[str | None]
    reasoning: NotRequired[str | None]
    reasoning_content: NotRequired[str | None]
    tool_calls: NotRequired[Annotated[list[ToolCall], MaxLen(128)] | None]
    audio: NotRequired[None]
    function_call: NotRequired[None]
    annotations: NotRequired[Annotated[list[Any], MaxLen(0)] | None]


class ToolMessage(TypedDict):
    """What a tool returned."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    role: Literal["tool"]
    content: str | Annotated[list[TextPart], MinLen(1)]
    tool_call_id: str
    name: NotRequired[str | None]


Message: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(TypedDict):
    """A function that the model may call; `parameters` is a JSON schema."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    name: Name
    description: NotRequired[str | None]
    parameters: NotRequired[dict[str, Any] | None]
    strict: NotRequired[bool | None]


class Tool(TypedDict):
    """A tool."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["function"]
    function: Function


class FunctionName(TypedDict):
    """The name of one of the tools."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    name: Name


class NamedTool(TypedDict):
    """The one tool that has to be called."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["function"]
    function: FunctionName


class TextFormat(TypedDict):
    """Free text."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["text"]


class JSONObjectFormat(TypedDict):
    """Any JSON object."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["json_object"]


class NamedSchema(TypedDict):
    """A JSON schema."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    name: Name
    description: NotRequired[str | None]
    schema: NotRequired[dict[str, Any]]
    strict: NotRequired[bool | None]


class JSONSchemaFormat(TypedDict):
    """JSON that fits a schema."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["json_schema"]
    json_schema: NamedSchema


class RegexFormat(TypedDict):
    """Text that fits a regular expression (ours)."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["regex"]
    regex: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


ResponseFormat: TypeAlias = Annotated[
    TextFormat | JSONObjectFormat | JSONSchemaFormat | RegexFormat, Field(discriminator="type")
]
