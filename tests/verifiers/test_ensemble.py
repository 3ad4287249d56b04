"""Ensembles: the mean by hand, what members cost and need, who starts them, and their names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field, PrivateAttr, ValidationError

from server.configuration import ConfigurationError
from server.consistency import build_verifiers
from server.engines.scripted import ScriptedEngine
from server.settings import Settings
from strategies.best_of_n import BestOfN
from strategies.budget import Budget, Stage
from tests.server.local import local
from tests.strategies.harness import Bench
from tests.verifiers.scoring_server import running
from verifiers.base import RequestFields, Verifier, verifier_classes
from verifiers.calibration import Isotonic
from verifiers.ensemble import Ensemble, Member
from verifiers.errors import VerifierError, VerifierUnavailable
from verifiers.exact import Exact
from verifiers.judge import Judge
from verifiers.logprob import Logprob
from verifiers.numeric import Numeric
from verifiers.types import UNSCORED, Candidate, Capabilities, Powers, Prompt, Score, Task

TASK = Task(Prompt(({"role": "user", "content": "Q"},)), {"wanted": "x", "reference": "42"})


class WantedFields(RequestFields):
    wanted: str | None = None


class Fixed(Verifier):
    """Gives the same score to all, and remembers what it was told."""

    type: Literal["fixed"] = "fixed"
    Fields: ClassVar[Any] = WantedFields
    value: float | None = None
    delay: float = 0.0
    fails: bool = False
    cost: int = 0
    alternatives: int | None = None
    steps: bool = True
    compares: bool = False
    where: str | None = Field(None)
    _told: list[str] = PrivateAttr(default_factory=list)
    _seen: list[dict[str, Any]] = PrivateAttr(default_factory=list)

    @property
    def told(self) -> list[str]:
        return self._told

    @property
    def logprobs(self) -> int | None:
        return self.alternatives

    @property
    def calls(self) -> int:
        return self.cost

    @property
    def max_tokens(self) -> int:
        return 2 * self.cost

    @property
    def partial(self) -> bool:
        return self.steps

    @property
    def joint(self) -> bool:
        return self.compares

    @property
    def asked(self) -> str | None:
        return self.where

    async def start(self) -> None:
        self._told.append("start")

    async def check(self) -> None:
        self._told.append("check")
        if self.fails:
            raise VerifierUnavailable("away")

    async def aclose(self) -> None:
        self._told.append("aclose")

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        self._seen.append(dict(task.fields))
        await asyncio.sleep(self.delay)
        if self.fails:
            raise VerifierError("failed")
        if self.value is None:
            return [Score(0.0, abstained=True) for _ in candidates]
        return [Score(self.value) for _ in candidates]


def ensemble(*members: tuple[Verifier, float]) -> Ensemble:
    return Ensemble(members=tuple(Member(verifier=each, weight=w) for each, w in members))


async def value(verifier: Ensemble) -> Score:
    (score,) = await verifier.score(TASK, [Candidate("0")], None)  # type: ignore[arg-type]
    return score


async def test_the_mean_is_over_members_that_do_not_abstain() -> None:
    high, low, silent = (Fixed(value=each) for each in (0.8, 0.2, None))
    assert (await value(ensemble((high, 3), (low, 1)))).value == pytest.approx(0.65)
    assert (await value(ensemble((high, 3), (low, 1), (silent, 9)))).value == pytest.approx(0.65)
    assert await value(ensemble((silent, 1), (silent, 2))) == Score(0.0, abstained=True)


async def test_calibrated_members_count_as_probabilities() -> None:
    calibration = Isotonic(knots=((0.0, 0.0), (10.0, 1.0)))
    raw = Fixed(value=5.0, calibration=calibration)
    assert (await value(ensemble((raw, 1), (Fixed(value=0.3), 1)))).value == pytest.approx(0.4)


async def test_members_work_at_the_same_time_and_fail_bare() -> None:
    start = time.monotonic()
    await value(ensemble((Fixed(value=0.1, delay=0.2), 1), (Fixed(value=0.1, delay=0.2), 1)))
    assert time.monotonic() - start < 0.35
    with pytest.raises(VerifierError, match="failed"):
        await value(ensemble((Fixed(fails=True), 1), (Fixed(value=0.1, delay=9), 1)))


def test_what_it_needs_and_costs_is_its_members_together() -> None:
    cheap = Fixed(cost=1, alternatives=0)
    dear = Fixed(cost=2, alternatives=20, steps=False, compares=True, where="small")
    both = ensemble((cheap, 1), (dear, 1))
    assert (both.calls, both.max_tokens, both.logprobs) == (3, 6, 20)
    assert (both.step_calls, both.step_tokens) == (3, 6)
    assert (both.partial, both.joint, both.engines()) == (False, True, frozenset({"small"}))
    plain = ensemble((Fixed(), 1), (Fixed(), 1))
    assert (plain.calls, plain.logprobs, plain.partial, plain.joint) == (0, None, True, False)
    assert plain.engines() == frozenset()


def test_each_member_is_asked_about_its_own_engine() -> None:
    able, blind = Capabilities(100, logprobs=20), Capabilities(100, logprobs=0)
    both = ensemble((Judge(engine="a"), 1), (Judge(engine="b"), 1))
    assert both.engines() == {"a", "b"}
    assert both.unavailable_among(blind, {"a": able, "b": able}) is None
    assert both.unavailable_among(able, {"a": able, "b": blind}) is not None
    mixed = ensemble((Judge(engine="a"), 1), (Logprob(measure="self_certainty"), 1))
    assert mixed.unavailable_among(able, {"a": able}) is None
    assert "of the 20" in str(mixed.unavailable_among(blind, {"a": able}))


async def test_the_request_may_give_what_any_member_takes() -> None:
    wants = Fixed(value=1.0)
    both = ensemble((wants, 1), (Exact(), 1))
    fields = both.request_fields()
    assert set(fields.model_fields) == {"wanted", "reference"}
    with pytest.raises(ValidationError, match="reference"):
        fields.model_validate({"wanted": "x"})
    await value(ensemble((wants, 1)))
    assert wants._seen[-1] == {"wanted": "x"}


def test_a_narrower_class_of_the_same_fields_rules() -> None:
    both = ensemble((Exact(), 1), (Numeric(), 1), (Exact(whole=True), 1))
    with pytest.raises(ValidationError):
        both.request_fields().model_validate({"reference": "Paris"})  # Numeric's own rule
    assert ensemble((Exact(), 1), (Exact(), 1)).request_fields() is Exact.Fields


def test_fields_of_two_meanings_are_refused() -> None:
    class OtherFields(RequestFields):
        wanted: int

    class Other(Fixed):
        type: Literal["other"] = "other"  # type: ignore[assignment]
        Fields: ClassVar[Any] = OtherFields

    with pytest.raises(ValidationError, match="different things by the request's field 'wanted'"):
        ensemble((Fixed(), 1), (Other(), 1))


def built(**verifiers: dict[str, Any]) -> dict[str, Verifier]:
    classes: dict[str, type[Verifier]] = {**verifier_classes(), "fixed": Fixed}
    engines: Any = {"small": {"engine": "scripted"}}
    settings = Settings(engine="scripted", verifiers=verifiers, engines=engines)
    return build_verifiers(settings, classes)


def together(*members: Any) -> dict[str, Any]:
    return {"type": "ensemble", "members": [{"verifier": each} for each in members]}


async def test_only_its_own_members_are_started_and_closed() -> None:
    verifiers = built(
        both=together("shared", {"type": "fixed", "value": 0.5}), shared={"type": "fixed"}
    )
    both, shared = verifiers["both"], verifiers["shared"]
    assert isinstance(both, Ensemble)
    assert isinstance(shared, Fixed)
    named, own = (each.verifier for each in both.members)
    assert named is shared
    await both.start()
    await both.check()
    await both.aclose()
    assert shared.told == []
    assert isinstance(own, Fixed)
    assert own.told == ["start", "check", "aclose"]


async def test_one_that_is_away_is_told() -> None:
    away = built(both=together({"type": "fixed", "fails": True}))["both"]
    with pytest.raises(VerifierUnavailable, match="away"):
        await away.check()


def test_members_may_be_ensembles_configured_later() -> None:
    verifiers = built(
        outer=together("inner", "logprob"), inner=together({"type": "judge", "engine": "small"})
    )
    assert verifiers["outer"].engines() == {"small"}
    assert verifiers["outer"].logprobs == 0
    assert list(verifiers).count("inner") == 1


@pytest.mark.parametrize(
    ("configured", "problem"),
    [
        ({"a": together("b"), "b": together("a")}, "members in a circle: a → b → a"),
        ({"a": together("a")}, "verifiers.a.members.0.verifier: members in a circle: a → a"),
        ({"a": together("none")}, "verifiers.a.members.0.verifier: there is no 'none': there are"),
        ({"a": together("b"), "b": {"type": "nothing"}}, "verifiers.b.type: there is no 'nothing'"),
        ({"a": together({"type": "nothing"})}, "there is no verifier 'nothing'"),
        ({"a": together({"type": "fixed", "value": "x"})}, "members.0.verifier.value: Input"),
        ({"a": together({"type": "judge", "engine": "x"})}, "verifiers.a.engine: there is no 'x'"),
        ({"a": together(3)}, "a verifier is a name, or a table"),
        ({"a": together()}, "verifiers.a.members: Tuple should have at least 1 item"),
        (
            {"a": {"type": "ensemble", "members": [{"verifier": "logprob", "weight": 0}]}},
            "members.0.weight: Input should be greater than 0",
        ),
    ],
)
def test_what_is_wrong_is_told_by_its_place(configured: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as failed:
        built(**configured)
    assert problem in str(failed.value)


async def test_what_members_ask_is_counted() -> None:
    engine = ScriptedEngine(
        lambda prompt, sampling, index: "7" if "Grade" in str(prompt.messages[-1]) else "\\boxed{1}"
    )
    both = ensemble((Judge(), 1), (Judge(criteria=("Is it short?",)), 1), (Logprob(), 1))
    bench = Bench(engine, verifier=both)
    outcome = await bench.run(BestOfN(n=3))
    assert bench.ledger.usage[Stage.VERIFY].calls == 6
    assert all(0 < each.score <= 1 for each in outcome.candidates)


async def test_what_a_member_could_not_be_asked_has_no_score() -> None:
    engine = ScriptedEngine(
        lambda prompt, sampling, index: "7" if "Grade" in str(prompt.messages[-1]) else "\\boxed{1}"
    )
    both = ensemble((Judge(), 1), (Judge(criteria=("Is it short?",)), 1))
    drawn = 3
    bench = Bench(engine, verifier=both, budget=Budget(100_000, drawn + 5, 60.0))
    outcome = await bench.run(BestOfN(n=drawn))
    # The first member asks about all three, the second about two.
    scores = [each.score for each in sorted(outcome.candidates, key=lambda each: each.id)]
    assert scores[:2] == [pytest.approx(7 / 9)] * 2
    assert scores[2] == UNSCORED


async def test_members_keep_what_they_know_apart() -> None:
    class Keeps(Fixed):
        type: Literal["keeps"] = "keeps"  # type: ignore[assignment]

        async def score(
            self, task: Task, candidates: Sequence[Candidate], powers: Powers
        ) -> list[Score]:
            value = task.known.setdefault("place", self.value or 0.0)
            assert dict(task.known) == {"place": value}
            return [Score(value) for _ in candidates]

    both = ensemble((Keeps(value=0.2), 1), (Keeps(value=0.6), 1))
    task = Task(TASK.prompt, {}, {})
    for _ in range(2):
        (score,) = await both.score(task, [Candidate("0")], None)  # type: ignore[arg-type]
        assert score.value == pytest.approx(0.4)
    assert len(task.known) == 2


def test_over_the_api() -> None:
    def lengths(body: Any) -> Any:
        texts = [each["content"] for each in body["candidates"]]
        return {"data": [{"index": i, "score": len(t) / 100} for i, t in enumerate(texts)]}

    with running(lengths) as stub:
        configured = {
            "both": together("exact", {"type": "logprob"}),
            "far": together({"type": "remote", "url": stub.url}),
        }
        with local(verifiers=configured) as server:
            listed = {e["name"]: e for e in server.http.get("/v1/verifiers").json()["data"]}
            assert "reference" in listed["both"]["schema"]["properties"]
            asked: dict[str, Any] = {"strategy": {"type": "best_of_n", "n": 2}}
            told = {"name": "both", "reference": "42"}
            scaling = server.post(**asked, verifier=told).json()["scaling"]
            assert 0 < scaling["scores"][0] <= 1
            assert server.refused(**asked, verifier="both")["param"] == "verifier.reference"
