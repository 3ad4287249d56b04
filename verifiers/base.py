"""What a verifier is: one class per file, built once at start, asked by every request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

import verifiers
from verifiers.calibration import Calibration
from verifiers.discovery import discover
from verifiers.types import Candidate, Capabilities, Powers, Score, Task


class RequestFields(BaseModel):
    """What a request may give to a verifier; each class declares its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


FieldsClass: TypeAlias = type[RequestFields]
"""`type` by another name: in a class with a field `type`, annotations cannot say it."""


class Verifier(BaseModel, ABC):
    """Scores candidates. The pydantic fields are its configuration in the TOML file.

    A subclass declares its name as `type: Literal["name"] = "name"`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    paper: ClassVar[str] = ""
    """Where the method comes from: title and arXiv id."""
    Fields: ClassVar[FieldsClass] = RequestFields
    """The fields of `verifier` in the request, beside `name`."""

    calibration: Calibration | None = Field(
        None, description="A file of `forethought bench calibrate`: what a score is worth."
    )

    def request_fields(self) -> FieldsClass:
        """Return the fields that a request may give it: the class's, unless it has parts."""
        return self.Fields

    def probability(self, score: float) -> float | None:
        """Return the probability that a reply of this score is right; None: not calibrated."""
        return None if self.calibration is None else self.calibration.probability(score)

    @property
    def logprobs(self) -> int | None:
        """What `Sampling.logprobs` the candidates must have been drawn with."""
        return None

    @property
    def calls(self) -> int:
        """The most engine calls that scoring one candidate takes."""
        return 0

    @property
    def max_tokens(self) -> int:
        """The most tokens that scoring one candidate generates."""
        return 0

    @property
    def step_calls(self) -> int:
        """The most engine calls that it takes where a scored candidate grew by one step."""
        return self.calls

    @property
    def step_tokens(self) -> int:
        """The most tokens that are generated where a scored candidate grew by one step."""
        return self.max_tokens

    @property
    def partial(self) -> bool:
        """Whether it can judge a reply that has not ended: what step search asks for."""
        return False

    @property
    def joint(self) -> bool:
        """Whether it compares candidates: then a new one changes the scores of all."""
        return False

    @property
    def asked(self) -> str | None:
        """The configuration's name of the engine that it asks; None: the policy's."""
        return None

    def unavailable(self, policy: Capabilities, asked: Capabilities) -> str | None:  # noqa: ARG002
        """Say why it cannot judge what the engine `policy` draws; None if it can.

        `asked` is what the engine can do that it asks: the same one, unless it names its own.
        """
        wanted = self.logprobs
        if wanted is None:
            return None
        if policy.logprobs is None:
            return "the engine gives no log-probabilities"
        if policy.logprobs < wanted:
            return f"the engine gives {policy.logprobs} of the {wanted} alternatives needed"
        return None

    def engines(self) -> frozenset[str]:
        """Name the configuration's engines that it asks, the policy's left out."""
        return frozenset() if self.asked is None else frozenset({self.asked})

    def unavailable_among(
        self, policy: Capabilities, engines: Mapping[str, Capabilities]
    ) -> str | None:
        """Say why it cannot judge what `policy` draws; `engines` are all, by their names.

        One that asks several engines overrides this and `engines`, others `unavailable` alone.
        """
        return self.unavailable(policy, policy if self.asked is None else engines[self.asked])

    def admit(self, task: Task) -> None:
        """Refuse a task that it cannot judge by, before any work. Raises BadRequest."""

    async def start(self) -> None:
        """Get what it needs beside engines, once, when the server starts.

        What can come later is not waited for: `check` tells of it. Raises VerifierError where the
        configuration asks for what cannot be had.
        """

    async def check(self) -> None:
        """Return if it can score now. Raises VerifierUnavailable; engines are checked elsewhere."""

    async def aclose(self) -> None:
        """Release everything."""

    @abstractmethod
    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Score each candidate, in their order. `task.fields` holds what `Fields` declares.

        Raises:
            VerifierError and its kinds: what it needs beside engines fails, or is away.
            EngineError: an engine fails.
        """


def verifier_classes() -> dict[str, type[Verifier]]:
    """Return every verifier of this package by its name."""
    return discover(verifiers, Verifier)  # type: ignore[type-abstract]
