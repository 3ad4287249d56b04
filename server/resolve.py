"""What a request means by its names: model, strategy, verifier, budget.

The path, a preset (a model name) and the body may each speak; names have to agree, of the
parameters the body's win over the preset's, those over the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from server.body import validated
from server.checkpoints.library import Checkpoint
from server.identity import Quota
from server.keys.errors import Forbidden
from server.settings import Effort, Preset
from server.state import State
from server.wire import BudgetFields
from strategies.base import Need, Strategy
from strategies.budget import Budget
from strategies.inner import KNOWN, unalias
from verifiers.base import Verifier
from verifiers.errors import BadRequest, UnknownModel, UnknownStrategy
from verifiers.types import Capabilities, Engine, JSONObject, Prompt, Task

Named: TypeAlias = str | Mapping[str, Any] | None
"""How the body names a strategy or a verifier: a name, an object, or not at all."""


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers: an engine, perhaps with an adapter, perhaps by way of a preset."""

    name: str
    engine: Engine
    adapter: str | None = None
    preset: Preset | None = None
    checkpoint: Checkpoint | None = None
    """What answers, if it is one of the store."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Who scores: a verifier under its configured name, with what the request tells it."""

    name: str | None = None
    verifier: Verifier | None = None
    fields: JSONObject = field(default_factory=dict)

    def admit(self, prompt: Prompt) -> None:
        """Refuse a prompt that the verifier cannot judge by. Raises BadRequest."""
        if self.verifier is not None:
            self.verifier.admit(Task(prompt, self.fields))


def targets(state: State) -> dict[str, Target]:
    """Return everything that `model` can name."""
    found: dict[str, Target] = {}
    for name, engine in state.service.engines.items():
        own = Target(engine.model, engine, checkpoint=state.models.get(name))
        found.setdefault(engine.model, own)
        held = state.exchange.held(name)
        for adapter in engine.capabilities.adapters:
            if adapter not in held:
                found.setdefault(adapter, Target(adapter, engine, adapter))
        for served, checkpoint in state.exchange.policies(name).items():
            target = Target(served, engine, checkpoint.spec, checkpoint=checkpoint)
            found.setdefault(served, target)
            found.setdefault(checkpoint.spec, target)
        found.setdefault(name, own)
    main = next(iter(found.values()))
    for name, preset in state.settings.presets.items():
        base = main if preset.model is None else found.get(preset.model)
        if base is not None:  # else what it stands on was promoted, and could not be served
            found[name] = Target(name, base.engine, base.adapter, preset, base.checkpoint)
    return found


def choose_target(known: Mapping[str, Target], name: str | None) -> Target:
    """Find the model; without a name it is the main one. Raises UnknownModel."""
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise UnknownModel(f"the model {name!r} does not exist", param="model")
    return known[name]


def choose_strategy(
    state: State, path: str | None, preset: Preset | None, given: Named
) -> tuple[str, Strategy]:
    """Build the strategy with its parameters; return its name too.

    Raises:
        UnknownStrategy: the path names none.
        BadRequest: names differ, or a parameter is unknown, of a wrong type or out of range.
    """
    classes = state.strategies
    body = {"type": given} if isinstance(given, str) else dict(given or {})
    said = {} if preset is None else dict(preset.strategy)
    if path is not None and unalias(path) not in classes:
        raise UnknownStrategy(f"there is no strategy {path!r}", param="strategy")
    if not isinstance(body.get("type", ""), str):
        raise BadRequest("the type is a strategy's name", param="strategy.type")
    spoken = (path, said.pop("type", None), body.pop("type", None))
    names = {unalias(name) for name in spoken if name is not None}
    if not names and body:
        raise BadRequest("name the strategy that these parameters are for", param="strategy.type")
    if len(names) > 1:
        both = " and ".join(repr(name) for name in sorted(names))
        raise BadRequest(f"the request names two strategies: {both}", param="strategy")
    name = names.pop() if names else state.settings.default_strategy
    if name not in classes:
        raise BadRequest(f"there is no strategy {name!r}: see /v1/strategies", param="strategy")
    return name, validated(classes[name], {**said, **body}, "strategy", {KNOWN: classes})


def choose_judge(
    state: State, strategy: tuple[str, Strategy], preset: Preset | None, given: Named
) -> Judge:
    """Find the verifier, and validate what the request tells it.

    Raises:
        BadRequest: it is unknown, its fields are wrong or missing, or nothing would ask it.
    """
    scores = Need.SCORES in strategy[1].required()
    told = _told(preset, given)
    if not told and not scores:
        return Judge()
    judge = _judge(state, told)
    if given and not scores:
        raise BadRequest(f"the strategy {strategy[0]!r} asks no verifier", param="verifier")
    return judge if scores else Judge()


def choose_scorer(state: State, target: Target, given: Named) -> Judge:
    """Find the verifier of replies that are there already: the server's default if none is named.

    Raises:
        BadRequest: it is unknown, its fields are wrong or missing, or it cannot work here.
    """
    judge = _judge(state, _told(target.preset, given))
    assert judge.verifier is not None
    able = target.engine.capabilities
    if reason := verifier_unavailable(state, judge.verifier, able):
        raise BadRequest(f"not available here: {reason}", param="verifier")
    wanted = judge.verifier.logprobs
    if wanted is not None and (wanted > 0 or not able.reply_logprobs):
        alternatives = " and their alternatives" * (wanted > 0)
        raise BadRequest(
            f"{judge.name!r} needs the log-probabilities that a reply was drawn with"
            f"{alternatives}: this engine cannot tell them of a given one; name another verifier",
            param="verifier",
        )
    return judge


def _told(preset: Preset | None, given: Named) -> dict[str, Any]:
    """Lay what the body says of the verifier over what the preset says of the same one."""
    body = {"name": given} if isinstance(given, str) else dict(given or {})
    said = {} if preset is None else dict(preset.verifier or {})
    if "name" in body and body["name"] != said.get("name"):
        said = {}  # fields of a preset's verifier are not for another one
    return {**said, **body}


def _judge(state: State, told: dict[str, Any]) -> Judge:
    name = told.pop("name", None if told else state.settings.default_verifier)
    if name is None:
        raise BadRequest("name the verifier that these fields are for", param="verifier.name")
    if not isinstance(name, str) or name not in state.verifiers:
        raise BadRequest(f"there is no verifier {name!r}: see /v1/verifiers", param="verifier")
    verifier = state.verifiers[name]
    fields = validated(verifier.request_fields(), told, "verifier").model_dump(exclude_none=True)
    return Judge(name, verifier, fields)


def choose_budget(
    state: State,
    preset: Preset | None,
    given: BudgetFields | None,
    effort: Effort | None = None,
    least: int = 0,
    quota: Quota | None = None,
) -> Budget:
    """Fill in what the request leaves out: by its effort, the preset, the server's defaults.

    An effort's budget is not below `least`, the replies that the client wants at full length: it
    rules how much is thought, and cuts no answer. What the request does not name is at most what
    the key's quota allows. Raises BadRequest over the server's caps, Forbidden over the key's.
    """
    limits, most = state.settings.limits, None if quota is None else quota.budget_tokens
    asked = {} if given is None else given.model_dump(exclude_none=True)
    for name, amount in asked.items():
        if amount > (cap := getattr(limits, name)):
            raise BadRequest(f"this server allows at most {cap}", param=f"budget.{name}")
    if most is not None and asked.get("max_tokens", most) > most:
        raise Forbidden(f"this key allows at most {most}", param="budget.max_tokens")
    said = {} if preset is None else dict(preset.budget or {})
    meant = None if effort is None else getattr(state.settings.reasoning_effort, effort)
    if meant is not None:
        said["max_tokens"] = min(max(meant, least), limits.max_tokens)
    chosen = Budget(**{**state.settings.budget.model_dump(), **said, **asked})
    return chosen if most is None else replace(chosen, max_tokens=min(chosen.max_tokens, most))


def verifier_unavailable(state: State, verifier: Verifier, policy: Capabilities) -> str | None:
    """Say why this verifier cannot judge what that engine draws; None if it can."""
    engines = {name: each.capabilities for name, each in state.service.engines.items()}
    return verifier.unavailable_among(policy, engines)


def check_available(
    state: State, strategy: Strategy, judge: Judge, capabilities: Capabilities
) -> None:
    """Refuse what this engine cannot do. Raises BadRequest."""
    if reason := strategy.unavailable(capabilities):
        raise BadRequest(f"not available here: {reason}", param="strategy")
    if judge.verifier is None:
        return
    if reason := verifier_unavailable(state, judge.verifier, capabilities):
        raise BadRequest(f"not available here: {reason}", param="verifier")
    if Need.STEP_SCORES in strategy.required() and not judge.verifier.partial:
        raise BadRequest(
            f"{judge.name!r} judges whole replies; this strategy needs a verifier of steps",
            param="verifier",
        )
