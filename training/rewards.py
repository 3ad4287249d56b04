"""Rewards are verifiers by name: what judges while training is the code that judges in serving."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from strategies.admission import Admission
from strategies.budget import Budget, Ledger
from strategies.events import EventLog
from strategies.powers import SessionPowers
from strategies.request import Request, Service
from strategies.session import Session
from training.rollouts.base import Rollouts
from training.rows import Prompted
from verifiers.base import Verifier, verifier_classes
from verifiers.concurrency import together
from verifiers.ensemble import CLASSES
from verifiers.equality import AnswerEquality
from verifiers.errors import BadRequest
from verifiers.types import Candidate, Engine, JSONObject, Prompt, Sampling, Score, Task

UNLIMITED = Budget(max_tokens=1 << 40, max_calls=1 << 40, deadline_s=86_400.0)
"""A trainer waits for its rewards; what a verifier may spend is in its own configuration."""
SLOTS = 256
"""Questions of verifiers that run at once."""
WORKERS = 2
"""Processes that compare answers; each pair has its limit, a batch of many pairs has none."""


class RewardSettings(BaseModel):
    """`[[rewards]]`: one verifier, and how much its score counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verifier: str | dict[str, Any] = Field(
        description="A verifier's type, or a table of `type` and its configuration."
    )
    weight: float = Field(1.0, allow_inf_nan=False, description="Below 0 it is a penalty.")
    name: str | None = Field(None, min_length=1, description="In logs. Default: its type.")
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description="What it is told of every row, such as `criteria`; a row's own word wins.",
    )

    @model_validator(mode="after")
    def _verifier_exists(self) -> Self:
        self.built()
        return self

    @property
    def label(self) -> str:
        """The name in logs."""
        return self.name or str(self._table["type"])

    def built(self) -> Verifier:
        """Build the verifier. Raises ValueError where there is none such, or a setting is wrong."""
        classes = verifier_classes()
        name = self._table.get("type")
        if name not in classes:
            raise ValueError(f"there is no verifier {name!r}; there are {', '.join(classes)}")
        try:
            return classes[name].model_validate(self._table, context={CLASSES: classes})
        except ValidationError as error:
            raise ValueError(f"verifier {name}: {_lines(error)}") from error

    def with_models(self, follow: Callable[[str], str]) -> Self:
        """Return it with another word for each `model` that the verifier, or a member, names."""
        return self.model_copy(update={"verifier": _followed(self.verifier, follow)})

    @property
    def _table(self) -> dict[str, Any]:
        return {"type": self.verifier} if isinstance(self.verifier, str) else dict(self.verifier)


@dataclass(frozen=True, slots=True)
class RewardSample:
    """What one reply is worth: the weighted sum, and what each verifier said."""

    total: float
    """Σ weight · score; a verifier that abstains adds 0."""
    parts: Mapping[str, Score]
    """By the reward's name, unweighted; what a verifier thinks of each step is in `steps`."""

    @property
    def steps(self) -> tuple[float, ...]:
        """The scores of the reply's steps, of the one verifier that gives them; () if none does."""
        return next((part.steps for part in self.parts.values() if part.steps), ())


@dataclass(frozen=True, slots=True)
class _Reward:
    name: str
    weight: float
    verifier: Verifier
    fields: JSONObject


class Rewards:
    """Scores replies by all rewards of a recipe, in the rollouts' event loop. Used by one thread.

    A verifier that asks a model asks the engine that it names, of `[rollouts.engines]`, or else the
    policy's: with merged weights that is the policy as it is now, with adapters the model below.
    """

    def __init__(self, settings: Sequence[RewardSettings], rollouts: Rollouts) -> None:
        """Build and start the verifiers; close them before the rollouts.

        Raises:
            ValueError: two have one name, or one cannot judge what these engines draw.
            VerifierError: one does not start.
        """
        twice = [name for name, n in Counter(each.label for each in settings).items() if n > 1]
        if twice:
            raise ValueError(f"two rewards are called {twice[0]!r}: give each a `name`")
        self._rollouts = rollouts
        self._rewards = [
            _Reward(each.label, each.weight, each.built(), each.fields) for each in settings
        ]
        self._check_engines(rollouts.engine, rollouts.engines)
        self._stack = AsyncExitStack()
        try:
            self._service = rollouts.run(self._open())
        except BaseException:
            self.close()
            raise

    @property
    def logprobs(self) -> int | None:
        """What `Sampling.logprobs` the replies must be drawn with."""
        needed = [each.verifier.logprobs for each in self._rewards]
        return max((each for each in needed if each is not None), default=None)

    def check(self, rows: Sequence[Prompted]) -> None:
        """Find out, before anything is drawn, whether the rows say all that the verifiers need.

        Raises:
            BadRequest: one does not; it is named by its place, from 0, and its problem.
        """
        for place, row in enumerate(rows):
            for reward in self._rewards:
                reward.verifier.admit(self._task(reward, place, row))

    def score(
        self, rows: Sequence[Prompted], replies: Sequence[Sequence[Candidate]]
    ) -> list[list[RewardSample]]:
        """Score the replies to each row.

        Raises:
            BadRequest: a row lacks what a verifier needs.
            VerifierError, EngineError: a verifier, or what it asks, fails.
        """
        work = (
            self._row(place, row, group)
            for place, (row, group) in enumerate(zip(rows, replies, strict=True))
        )
        return self._rollouts.run(together(work))

    def close(self) -> None:
        """Release the verifiers; twice does no harm."""
        self._rollouts.run(self._stack.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _open(self) -> Service:
        equality = await self._stack.enter_async_context(
            aclosing(AnswerEquality(workers=WORKERS, call_seconds=UNLIMITED.deadline_s))
        )
        for reward in self._rewards:
            await self._stack.enter_async_context(aclosing(reward.verifier))
            await reward.verifier.start()
        engines = {"policy": self._rollouts.engine, **self._rollouts.engines}
        return Service(engines, equality, Admission(SLOTS, SLOTS))

    def _check_engines(self, policy: Engine, others: Mapping[str, Engine]) -> None:
        capabilities = {name: each.capabilities for name, each in others.items()}
        for reward in self._rewards:
            missing = sorted(reward.verifier.engines() - others.keys())
            if missing:
                raise ValueError(
                    f"reward {reward.name}: there is no engine {missing[0]!r}: "
                    f"say [rollouts.engines.{missing[0]}]"
                )
            reason = reward.verifier.unavailable_among(policy.capabilities, capabilities)
            if reason is not None:
                raise ValueError(f"reward {reward.name}: not available here: {reason}")

    async def _row(
        self, place: int, row: Prompted, replies: Sequence[Candidate]
    ) -> list[RewardSample]:
        scores = await together(self._ask(each, place, row, replies) for each in self._rewards)
        names = [each.name for each in self._rewards]
        return [
            self._sample(dict(zip(names, parts, strict=True)))
            for parts in zip(*scores, strict=True)
        ]

    def _sample(self, parts: Mapping[str, Score]) -> RewardSample:
        counted = (
            0.0 if parts[each.name].abstained else each.weight * parts[each.name].value
            for each in self._rewards
        )
        return RewardSample(sum(counted), parts)

    async def _ask(
        self, reward: _Reward, place: int, row: Prompted, replies: Sequence[Candidate]
    ) -> list[Score]:
        """Ask one verifier about one row, as a request of its own: its questions, its seeds."""
        if not replies:
            return []
        task = self._task(reward, place, row)
        ledger = Ledger(UNLIMITED)
        log = EventLog(lambda: ledger.seconds)
        request = Request(self._service, ledger, log, reward.verifier, task.fields)
        sampling = Sampling(max_tokens=max(1, reward.verifier.max_tokens), seed=place)
        session = Session(request, self._rollouts.engine, task.prompt, sampling)
        powers = SessionPowers(session.question, self._service.equivalence)
        return await reward.verifier.score(task, replies, powers)

    def _task(self, reward: _Reward, place: int, row: Prompted) -> Task:
        """Tell a verifier of a row what it declares, of what the row and the recipe say."""
        declared = reward.verifier.request_fields()
        said: dict[str, Any] = {**reward.fields, **row.fields}
        if row.reference is not None:
            said["reference"] = row.reference
        known = {name: value for name, value in said.items() if name in declared.model_fields}
        try:
            fields = declared.model_validate(known).model_dump(exclude_none=True)
        except ValidationError as error:
            problem = f"row {place} ({_excerpt(row)}): {reward.name}: {_lines(error)}"
            raise BadRequest(problem, param=f"rewards.{reward.name}") from error
        return Task(prompt_of(row), fields)


def open_rewards(settings: Sequence[RewardSettings], rollouts: Rollouts) -> Rewards:
    """Build the rewards of a recipe; a context manager, inside that of the rollouts."""
    return Rewards(settings, rollouts)


def prompt_of(row: Prompted) -> Prompt:
    """Return a row's prompt as engines take it."""
    return Prompt(tuple(each.model_dump() for each in row.prompt))


def _followed(value: Any, follow: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: follow(each)
            if key == "model" and isinstance(each, str)
            else _followed(each, follow)
            for key, each in value.items()
        }
    return [_followed(each, follow) for each in value] if isinstance(value, list) else value


def _excerpt(row: Prompted, characters: int = 40) -> str:
    text = " ".join(row.prompt[-1].content.split())
    return repr(text if len(text) <= characters else text[: characters - 1] + "…")


def _lines(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or 'settings'}: "
        f"{each['msg'].removeprefix('Value error, ')}"
        for each in error.errors()
    )
