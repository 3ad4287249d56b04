"""Errors, and what all answers are made of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from strategies.budget import Limit


class Answer(BaseModel):
    """What the server says: these fields, all of them, and no others."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ErrorObject(Answer):
    """What went wrong, in OpenAI's form."""

    message: str
    """In a sentence."""
    type: str
    """What kind of error it is, such as `invalid_request_error`."""
    param: str | None
    """The dotted path of the field that is wrong."""
    code: str | None
    """A name for programs, such as `context_length_exceeded`."""


class ErrorAnswer(Answer):
    """An error; with `x-should-retry: false` work was done, and asking again costs again."""

    error: ErrorObject
    """What went wrong."""


class StageUsage(Answer):
    """What one stage cost."""

    calls: int
    """Samples, or scorings."""
    prompt_tokens: int
    """Tokens read."""
    cached_tokens: int
    """Those of them that were in the prefix cache."""
    completion_tokens: int
    """Tokens generated."""
    exact: bool
    """Whether all of it could be counted."""


class StagesUsage(Answer):
    """What each stage cost."""

    sample: StageUsage
    """The policy's part."""
    verify: StageUsage
    """The verifiers' part."""


class Costs(Answer):
    """What judged, what ended it and what it cost."""

    verifier: str | None
    """The verifier that judged."""
    stopped_by: Limit | None
    """The limit of the budget that ended it, or `decided`; null: it came to its own end."""
    usage: StagesUsage
    """What each stage cost."""
    seconds: float
    """Since the request was received."""
    trace_id: str
    """By which a stored trace is found."""


class MadeFunctionCall(Answer):
    """The function and its arguments."""

    name: str
    """Of one of the request's tools."""
    arguments: str
    """JSON as text."""


class MadeToolCall(Answer):
    """A call that the reply makes."""

    id: str
    """By which a tool's message answers."""
    type: Literal["function"]
    """That a function is called."""
    function: MadeFunctionCall
    """What is called with what."""


class GivenCandidate(Answer):
    """A reply."""

    content: str
    """What it says."""
    reasoning: str | None
    """What it thought."""
    tool_calls: list[MadeToolCall]
    """Calls that it makes."""
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None
    """How it ended; null: it was cut off."""


class DrawnCandidate(GivenCandidate):
    """A reply that was drawn for the request."""

    id: str
    """By which others name it as their `parent`."""
    parent: str | None
    """The reply that it goes on with."""
    tokens: int
    """Its length."""
    score: float | None
    """The verifier's; null: none, or it abstained."""
    steps: list[float]
    """The verifier's score after each step."""
    mean_logprob: float | None
    """Of its tokens; null where the engine gave none."""


Schema = dict[str, Any]
"""A JSON schema."""
