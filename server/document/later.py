"""Responses, and what is answered later."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from server.document.base import Answer, ErrorObject
from server.document.chat import ChatCompletion, Scaling


class Background(Answer):
    """A chat request that is answered in the background."""

    id: str
    """By which it is asked for."""
    object: Literal["background"]
    """What this is."""
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    """How far it is."""
    model: str
    """As the request names it."""
    strategy: str
    """The strategy that is run."""
    created_at: int
    """Unix time."""
    started_at: int | None
    """When it was begun first."""
    ended_at: int | None
    """When it came to its end."""
    expires_at: int
    """When it is deleted."""
    turn: int
    """How often it was begun."""
    completion: ChatCompletion | None
    """The answer, once it is completed."""
    error: ErrorObject | None
    """Why it failed."""


class Deleted(Answer):
    """What is no more."""

    id: str
    """Of what was deleted."""
    object: str
    """What it was."""
    deleted: Literal[True]
    """That it was deleted."""


class InputDetails(Answer):
    """Of the tokens that were read."""

    cached_tokens: int
    """Always 0: what caches gave is told by stage, in `scaling.usage`."""
    cache_write_tokens: int
    """Always 0."""


class OutputDetails(Answer):
    """Of the generated tokens."""

    reasoning_tokens: int
    """Those that are not in the answer: other samples, and what verifiers generated."""


class ResponseUsage(Answer):
    """Tokens."""

    input_tokens: int
    """Of the conversation, once."""
    input_tokens_details: InputDetails
    """Of these."""
    output_tokens: int
    """All that were generated, by policy and verifiers."""
    output_tokens_details: OutputDetails
    """Of these."""
    total_tokens: int
    """Both together."""


class Incomplete(Answer):
    """Why an answer is not whole."""

    reason: Literal["max_output_tokens", "content_filter"]
    """What ended it."""


class Response(Answer):
    """A response, as OpenAI's: what was asked, and what came of it."""

    id: str
    """By which it is asked for, and followed by another one."""
    object: Literal["response"]
    """What this is."""
    created_at: int
    """Unix time."""
    completed_at: int | None
    """When it was answered."""
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    """How far it is."""
    error: ErrorObject | None
    """Why it failed."""
    incomplete_details: Incomplete | None
    """Why it is not whole."""
    model: str
    """As the request names it."""
    output: list[dict[str, Any]]
    """Items: what was thought, what was said, what is to be called."""
    usage: ResponseUsage | None
    """What was read and generated."""
    scaling: Scaling | None = Field(default=None)
    """How the answer came about."""
    background: bool
    """Whether it is answered in the background."""
    instructions: str | None
    """What the operator said."""
    max_output_tokens: int | None
    """As it was asked for."""
    metadata: dict[str, str]
    """As it was sent."""
    parallel_tool_calls: bool
    """Whether one answer may make several calls."""
    previous_response_id: str | None
    """The response that this one follows."""
    reasoning: dict[str, Any]
    """How much was to be thought."""
    store: bool
    """Whether it is kept."""
    temperature: float | None
    """As it was asked for."""
    text: dict[str, Any]
    """The form of the answer."""
    tool_choice: str | dict[str, Any]
    """Whether functions may or must be called, or which."""
    tools: list[dict[str, Any]]
    """Functions that the answer may call."""
    top_logprobs: int
    """Alternatives told for each token."""
    top_p: float | None
    """As it was asked for."""
    truncation: Literal["disabled"]
    """A conversation that is too long is refused."""
    user: str | None
    """As it was sent."""


class InputItems(Answer):
    """What a response answers."""

    object: Literal["list"]
    """What this is."""
    data: list[dict[str, Any]]
    """Items."""
    first_id: str | None
    """Of the first of them."""
    last_id: str | None
    """Of the last of them: what comes `after`."""
    has_more: bool
    """Whether others follow."""
