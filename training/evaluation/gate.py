"""What the gate is: how a checkpoint is measured before it may be promoted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _short_for(key: str) -> BeforeValidator:
    """Let a string stand for the table that holds nothing but it, under `key`."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class GateSettings(BaseModel):
    """`[gate]`: what the checkpoint must show through the API before it may be promoted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str | None = Field(None, description="Of policies: NAME or NAME:ARGUMENT of the bench.")
    pool: Annotated[tuple[str, ...], BeforeValidator(_several)] | None = Field(
        None, description="Of verifiers: pools of replies to score, directories or kept ones."
    )
    parent: str | None = Field(
        None, description="What to gain on, a model as in `model`. Default: that very one."
    )
    bar: float = Field(
        0.0, ge=-1, le=1, description="Least lower bound of the gain over the parent, in shares."
    )
    required: bool = Field(True, description="A pipeline stops where the bar is not reached.")
    problems: int | None = Field(None, ge=1, description="How many; default all.")
    held_out: bool = Field(True, description="Leave out problems that were trained on.")
    samples: int | None = Field(
        None,
        ge=1,
        description="Of each problem. Default: 1 of a policy, and all that a pool has.",
    )
    strategy: Annotated[dict[str, Any], _short_for("type")] = Field({"type": "single"})
    verifier: Annotated[dict[str, Any] | None, _short_for("name")] = None
    budget: dict[str, Any] = Field(default_factory=dict, description="As in requests.")
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(320, ge=1, description="Of a reply.")
    sampling: dict[str, Any] = Field(
        default_factory=dict, description="Any other field of requests, such as `top_p`."
    )
    seed: int = Field(0, description="Of the task, the choice of problems and the samples.")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    concurrency: int = Field(32, ge=1, description="Requests in flight.")
    configuration: dict[str, Any] = Field(
        default_factory=dict,
        description="Of verifiers: how it is configured, laid over the default of its kind.",
    )
    server: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of the server that is measured, as its own file has them.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> GateSettings:
        if (self.task is None) == (self.pool is None):
            raise ValueError("say a `task`, or of a verifier a `pool`")
        return self


def gate_of(config: Mapping[str, Any], changes: Mapping[str, Any]) -> GateSettings:
    """Return the gate of a recipe as a manifest keeps it, with changes laid over it.

    Raises:
        pydantic.ValidationError: it is none.
    """
    kept = dict(config.get("gate") or {})
    if kept.keys() & {"task", "pool"} and changes.keys() & {"task", "pool"}:
        kept.pop("task", None)
        kept.pop("pool", None)
    return GateSettings.model_validate({**kept, **changes})
