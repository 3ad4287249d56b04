"""Models, strategies, verifiers, traces and readiness."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict

from server.document.base import Answer, Schema


class Model(Answer):
    """A model, an adapter or a preset."""

    id: str
    """What requests name it."""
    object: Literal["model"]
    """What this is."""
    created: int
    """Always 0."""
    owned_by: str
    """Always `forethought`."""
    root: str
    """The engine's model that stands behind it."""
    adapter: str | None
    """The adapter that it is."""
    checkpoint: str | None
    """The checkpoint that is served under the name."""
    version: str | None
    """Of the checkpoint."""
    sha256: str | None
    """Of the checkpoint."""
    max_model_len: int
    """Tokens of prompt and reply together."""
    defaults: dict[str, Any]
    """Sampling where a request says nothing."""
    preset: dict[str, Any] | None
    """What the preset sets."""


class Models(Answer):
    """Everything that requests can name as their model."""

    object: Literal["list"]
    """What this is."""
    data: list[Model]
    """The models."""


class Listed(Answer):
    """What strategies and verifiers have in common."""

    name: str
    """What requests name it."""
    summary: str
    """What it does, in a line."""
    paper: str
    """Title and id of its source."""
    json_schema: Schema
    """JSON schema of what a request may give it."""
    defaults: dict[str, Any]
    """Of its fields."""
    needs: list[str]
    """What it cannot work without."""
    available: bool
    """Whether it can be used here."""
    reason: str | None
    """Why not."""

    # `schema` is a method of every pydantic model.
    model_config = ConfigDict(
        alias_generator=lambda name: "schema" if name == "json_schema" else name
    )


class ListedStrategy(Listed):
    """A strategy."""


class ListedVerifier(Listed):
    """A verifier."""

    type: str
    """Its class."""
    calibrated: bool
    """Whether its scores are turned into probabilities."""


class StrategyList(Answer):
    """Every strategy."""

    object: Literal["list"]
    """What this is."""
    data: list[ListedStrategy]
    """The strategies."""


class VerifierList(Answer):
    """Every configured verifier."""

    object: Literal["list"]
    """What this is."""
    data: list[ListedVerifier]
    """The verifiers."""


class TraceSummary(Answer):
    """A stored trace."""

    object: Literal["trace"]
    """What this is."""
    id: str
    """By which it is found."""
    owner: str
    """Whose request it was."""
    saved_at: float
    """Unix time."""
    bytes: int
    """What its texts take."""
    kind: str
    """The endpoint."""
    model: str | None
    """The model that was asked."""
    strategy: str | None
    """The strategy that was run; null: none was."""
    agreement: float | None
    """Null where nothing was voted on."""
    tokens: int
    """Generated, by policy and verifiers together."""


class TraceList(Answer):
    """Stored traces, the newest first."""

    object: Literal["list"]
    """What this is."""
    data: list[TraceSummary]
    """The traces."""
    first_id: str | None
    """Of the first one here."""
    last_id: str | None
    """Of the last one here: give it as `after` for more."""
    has_more: bool
    """Whether there are more."""


class TraceEvent(Answer):
    """Something that happened."""

    model_config = ConfigDict(extra="allow")

    kind: str
    """What happened."""
    data: dict[str, Any]
    """What there is to tell of it."""


class TraceAnswer(Answer):
    """What a request did; the endpoint adds what it keeps of the request."""

    model_config = ConfigDict(extra="allow")

    id: str
    """The answer's own."""
    saved_at: float
    """Unix time."""
    kind: str
    """The endpoint."""
    events: list[TraceEvent]
    """All that happened, in its order."""


class DeletedTrace(Answer):
    """That a trace is gone."""

    id: str
    """The trace's."""
    object: Literal["trace"]
    """What was deleted."""
    deleted: Literal[True]
    """That it is gone."""


class Ready(Answer):
    """That every engine answers."""

    status: Literal["ready"]
    """That requests are served."""
    engines: dict[str, str]
    """How each one is."""
    verifiers: dict[str, str]
    """How each one is: `ok`, or why it cannot score now."""
    store: str
    """How it is: `ok`, or why it does not answer."""
    checkpoints: dict[str, str]
    """The version that is served of each."""
