"""The body of `POST /v1/responses`: OpenAI's fields, vLLM's that we take, and ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from annotated_types import MaxLen, MinLen
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from server.responses.items import Id, Item
from server.settings import Effort
from server.wire import INT64, BudgetFields, ModelName, Word
from server.wire_messages import FAIL_FAST, STRICT, JSONObjectFormat, Name, RegexFormat, TextFormat

IGNORED = frozenset(
    {"user", "service_tier", "safety_identifier", "prompt_cache_key", "stream_options"}
)
"""Accepted without effect; `metadata` is sent back."""

REFUSED = {
    "access_programs": "there are none",
    "background_options": "background requests are begun as soon as there is room",
    "context_management": "nothing is compacted: a conversation that is too long is refused",
    "conversation": "use `previous_response_id`",
    "image": "images are taken as they are",
    "max_tool_calls": "this server calls no tools itself",
    "moderation": "this server does not moderate",
    "prompt": "this server keeps no prompts",
    "prompt_cache_options": "the prompt cache has no options",
    "prompt_cache_retention": "the prompt cache keeps what fits",
}
"""Refused with a reason; every other unknown field is refused without one."""

RENAMED = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "tool_choice.function.name": "tool_choice.name",
    "logprobs": "include",
}
"""What the chat line calls the fields of this body."""

Metadata: TypeAlias = Annotated[
    dict[Annotated[str, MaxLen(64)], Annotated[str, MaxLen(512)]], MaxLen(16)
]


class FunctionTool(TypedDict):
    """A function that the model may call; `parameters` is a JSON schema."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["function"]
    """That it is a function."""
    name: Name
    """What it is called by."""
    description: NotRequired[str | None]
    """What it does."""
    parameters: NotRequired[dict[str, Any] | None]
    """JSON schema of its arguments."""
    strict: NotRequired[bool | None]
    """Whether arguments fit the schema for certain."""


class NamedFunction(TypedDict):
    """The one function that has to be called."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["function"]
    """That it is a function."""
    name: Name
    """Of one of the tools."""


class SchemaFormat(TypedDict):
    """JSON that fits a schema."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    type: Literal["json_schema"]
    """That it is a schema."""
    name: Name
    """What the schema is called."""
    schema: dict[str, Any]
    """The schema."""
    description: NotRequired[str | None]
    """What it is for."""
    strict: NotRequired[bool | None]
    """Accepted: the answer fits in any case."""


class TextConfig(TypedDict):
    """The form of the answer."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    format: NotRequired[
        Annotated[
            TextFormat | JSONObjectFormat | SchemaFormat | RegexFormat, Field(discriminator="type")
        ]
    ]
    """The answer's form."""
    verbosity: NotRequired[Literal["low", "medium", "high"] | None]
    """Accepted without effect."""


class ReasoningConfig(TypedDict):
    """How much to think: `effort` sets the budget of tokens where `budget` does not."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    effort: NotRequired[Effort | None]
    """How much: see the setting `reasoning_effort`."""
    summary: NotRequired[None]
    """Nothing is summarised."""
    generate_summary: NotRequired[None]
    """Nothing is summarised."""


class ResponseStreamOptions(TypedDict):
    """Accepted without effect."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    include_obfuscation: NotRequired[bool | None]
    """Accepted without effect."""


class ResponseRequest(BaseModel):
    """A request for a response."""

    model_config = STRICT

    input: Annotated[str, MinLen(1)] | Annotated[list[Item], FAIL_FAST, MinLen(1)]
    """What is asked: a text, or items of a conversation."""
    model: ModelName | None = None
    """A model, adapter or preset of `/v1/models`. Default: the main engine's model."""
    instructions: str | None = Field(None, description="What the operator says, this once.")
    previous_response_id: Id | None = Field(
        None, description="The stored response whose conversation goes on."
    )
    strategy: str | dict[str, Any] | None = None
    """A strategy's name, or it with parameters. Default: the server's."""
    verifier: str | dict[str, Any] | None = None
    """A configured verifier's name, or it with fields. Default: the server's."""
    budget: BudgetFields | None = None
    """What the request may spend."""
    include: (
        Annotated[list[Literal["message.output_text.logprobs", "candidates"]], FAIL_FAST] | None
    ) = Field(
        None, description="`candidates`: everything that was sampled, in `scaling.candidates`."
    )
    background: bool | None = None
    """Answer with an id at once; the answer comes later."""
    store: bool | None = Field(None, description="Default: true.")
    trace: bool | None = Field(None, description="Whether the run is recorded.")
    stream: bool | None = None
    """Whether to send the answer as it comes, in OpenAI's events."""
    stream_options: ResponseStreamOptions | None = None
    """Accepted without effect."""
    max_output_tokens: int | None = Field(None, ge=1)
    """Cap of each reply."""
    tools: Annotated[list[FunctionTool], FAIL_FAST, MaxLen(128)] | None = None
    """Functions that the answer may call."""
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    """Whether the answer may, must or must not call one, or which."""
    parallel_tool_calls: bool | None = None
    """Whether one answer may make several calls. Default: the model's."""
    text: TextConfig | None = None
    """The form that the answer must have. Default: free text."""
    reasoning: ReasoningConfig | None = None
    """How much to think."""
    temperature: float | None = Field(None, ge=0, le=2)
    """How much chance there is in sampling; 0: none. Default: the model's."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Sample among the likeliest tokens that have this much of the probability together."""
    top_logprobs: int | None = Field(None, ge=0, le=20)
    """How many alternatives to tell for each token."""
    truncation: Literal["disabled"] | None = None
    """A conversation that is too long is refused."""
    metadata: Metadata | None = None
    """Sent back, and kept with the trace."""

    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    """With the same seed the same request has the same answer, as far as the engine can."""
    stop: Word | Annotated[list[Word], FAIL_FAST, MaxLen(16)] | None = None
    """Texts at which a reply ends."""
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    """Sample among so many tokens only; -1 or 0: all."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Sample among tokens that have at least this share of the likeliest one's probability."""
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    """Against tokens that came at all, as a factor; 1: none."""
    thinking_token_budget: int | None = Field(None, ge=0)
    """Tokens after which thinking is ended."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Arguments for the model's chat template."""

    user: str | None = None
    """Accepted without effect."""
    service_tier: str | None = None
    """Accepted without effect."""
    safety_identifier: str | None = None
    """Accepted without effect."""
    prompt_cache_key: str | None = None
    """Accepted without effect."""
