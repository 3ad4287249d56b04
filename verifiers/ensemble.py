"""Several verifiers as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    PrivateAttr,
    ValidationInfo,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from verifiers.base import FieldsClass, RequestFields, Verifier, verifier_classes
from verifiers.concurrency import together
from verifiers.membership import OwnMemory, WatchedPowers
from verifiers.types import Candidate, Capabilities, Powers, Score, Task

CLASSES = "verifiers"
"""Where the context of a validation gives all classes by name; else there are only our own."""
CONFIGURED = "configured"
"""Where the context gives a function from a configured name to its verifier.

It raises PydanticCustomError where there is none.
"""


def _verifier(given: Any, info: ValidationInfo) -> Verifier:
    """Find a configured verifier by its name, or build one of a table."""
    if isinstance(given, Verifier):
        return given
    context: Mapping[str, Any] = info.context or {}
    if isinstance(given, str):
        configured: Callable[[str], Verifier] | None = context.get(CONFIGURED)
        if configured is None:
            raise PydanticCustomError("no_names", "there are no configured verifiers here")
        return configured(given)
    if not isinstance(given, Mapping):
        raise PydanticCustomError("verifier", "a verifier is a name, or a table with its `type`")
    classes: Mapping[str, type[Verifier]] = context.get(CLASSES) or verifier_classes()
    name = given.get("type")
    if not isinstance(name, str) or name not in classes:
        raise PydanticCustomError("unknown", "there is no verifier {name}", {"name": repr(name)})
    return classes[name].model_validate(dict(given), context=context)


class Member(BaseModel):
    """One of an ensemble's verifiers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verifier: Annotated[
        Verifier, PlainValidator(_verifier, json_schema_input_type=str | dict[str, Any])
    ] = Field(description="A configured verifier's name, or a table of `type` and its settings.")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)

    _shared: bool = PrivateAttr(False)

    @model_validator(mode="wrap")
    @classmethod
    def _remember_whose(cls, given: Any, handler: ModelWrapValidatorHandler[Member]) -> Member:
        member = handler(given)
        if isinstance(given, Mapping):
            member._shared = isinstance(given["verifier"], str)
        return member

    @property
    def shared(self) -> bool:
        """Whether it is configured under a name: then the server starts and closes it."""
        return self._shared


class Ensemble(Verifier):
    """Ask several verifiers at the same time, and take the weighted mean of their scores.

    Each member's score counts as the probability that its calibration makes of it, where it has
    one; uncalibrated ones should have a common range. The mean is over the members that do not
    abstain, their weights made to add up to 1; where all abstain, so does it. Learned verifiers
    err on different replies, so that a mean is harder to fool than any of them.
    """

    type: Literal["ensemble"] = "ensemble"
    paper: ClassVar[str] = "Coste et al., Reward Model Ensembles, 2310.02743"

    members: tuple[Member, ...] = Field(min_length=1)

    _fields: FieldsClass = PrivateAttr(RequestFields)

    @model_validator(mode="after")
    def _join_fields(self) -> Ensemble:
        self._fields = _joined([each.verifier.request_fields() for each in self.members])
        return self

    def request_fields(self) -> FieldsClass:
        """Take what any member takes."""
        return self._fields

    @property
    def logprobs(self) -> int | None:
        """What the most demanding member needs."""
        needed = [each.logprobs for each in self._verifiers()]
        return max((each for each in needed if each is not None), default=None)

    @property
    def calls(self) -> int:
        """All members' together."""
        return sum(each.calls for each in self._verifiers())

    @property
    def max_tokens(self) -> int:
        """All members' together."""
        return sum(each.max_tokens for each in self._verifiers())

    @property
    def step_calls(self) -> int:
        """All members' together."""
        return sum(each.step_calls for each in self._verifiers())

    @property
    def step_tokens(self) -> int:
        """All members' together."""
        return sum(each.step_tokens for each in self._verifiers())

    @property
    def partial(self) -> bool:
        """Whether every member judges what has not ended."""
        return all(each.partial for each in self._verifiers())

    @property
    def joint(self) -> bool:
        """Whether any member compares."""
        return any(each.joint for each in self._verifiers())

    def engines(self) -> frozenset[str]:
        """Name all members'."""
        return frozenset().union(*(each.engines() for each in self._verifiers()))

    def unavailable_among(
        self, policy: Capabilities, engines: Mapping[str, Capabilities]
    ) -> str | None:
        """Say what any member lacks."""
        reasons = (each.unavailable_among(policy, engines) for each in self._verifiers())
        return next((reason for reason in reasons if reason is not None), None)

    async def start(self) -> None:
        """Start the members that are its own."""
        for verifier in self._own():
            await verifier.start()

    async def check(self) -> None:
        """Check its own members: the others are checked by themselves."""
        await together(each.check() for each in self._own())

    async def aclose(self) -> None:
        """Close its own members."""
        for verifier in self._own():
            await verifier.aclose()

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Ask all members about all candidates.

        Where the budget ends within a member's questions, what it could not be asked about has no
        score: the mean of the others would be another ensemble's.
        """
        watched = [WatchedPowers(powers) for _ in self.members]
        told = await together(
            each.verifier.score(_own_task(task, place, each.verifier), candidates, watch)
            for place, (each, watch) in enumerate(zip(self.members, watched, strict=True))
        )
        short = [watch.short for watch in watched]
        return [self._mean(scores, short) for scores in zip(*told, strict=True)]

    def _mean(self, scores: Sequence[Score], short: Sequence[bool]) -> Score:
        if any(score.abstained and unpaid for score, unpaid in zip(scores, short, strict=True)):
            return Score(0.0, abstained=True)
        heard = [
            (member.weight, _worth(member.verifier, score.value))
            for member, score in zip(self.members, scores, strict=True)
            if not score.abstained
        ]
        if not heard:
            return Score(0.0, abstained=True)
        whole = math.fsum(weight for weight, _ in heard)
        return Score(math.fsum(weight * value for weight, value in heard) / whole)

    def _verifiers(self) -> list[Verifier]:
        return [each.verifier for each in self.members]

    def _own(self) -> list[Verifier]:
        return [each.verifier for each in self.members if not each.shared]


def _worth(verifier: Verifier, score: float) -> float:
    calibrated = verifier.probability(score)
    return score if calibrated is None else calibrated


def _own_task(task: Task, place: int, verifier: Verifier) -> Task:
    """Leave out what the request told the other members, and what they keep."""
    names = verifier.request_fields().model_fields
    told = {name: task.fields[name] for name in names if name in task.fields}
    return Task(task.prompt, told, OwnMemory(task.known, place))


def _joined(classes: Sequence[FieldsClass]) -> FieldsClass:
    """Make one class that takes the fields of all.

    Raises:
        ValueError: two of them mean different things by one name.
    """
    unique = list(dict.fromkeys(classes))
    bases = [
        each
        for each in unique
        if not any(other is not each and issubclass(other, each) for other in unique)
    ]
    if len(bases) == 1:
        return bases[0]
    kinds: dict[str, Any] = {}
    for name, field in (item for cls in bases for item in cls.model_fields.items()):
        if kinds.setdefault(name, field.annotation) != field.annotation:
            raise ValueError(f"members mean different things by the request's field {name!r}")
    return create_model("EnsembleFields", __base__=tuple(bases))
