"""`GET` routes that list what this server has: models, strategies, verifiers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from server.chat import json_response
from server.resolve import Target, targets, verifier_unavailable
from server.state import State
from strategies.base import Strategy
from strategies.inner import unalias
from verifiers.base import Verifier
from verifiers.discovery import summary, type_name
from verifiers.errors import UnknownModel, UnknownStrategy
from verifiers.types import Capabilities


async def list_models(http: Request) -> Response:
    """List engines' models, their adapters and the presets."""
    state = _state(http)
    strategy = http.path_params.get("strategy")
    if strategy is not None and unalias(strategy) not in state.strategies:
        raise UnknownStrategy(f"there is no strategy {strategy!r}", param="strategy")
    unique = {target.name: target for target in targets(state).values()}
    return _list(_model(target) for target in unique.values())


async def show_model(http: Request) -> Response:
    """Describe one model."""
    name = http.path_params["model"]
    target = targets(_state(http)).get(name)
    if target is None:
        raise UnknownModel(f"the model {name!r} does not exist", param="model")
    return json_response(_model(target))


async def list_strategies(http: Request) -> Response:
    """List every strategy with its parameters, and whether the main engine can run it."""
    state = _state(http)
    able = _main(state)
    return _list(_strategy(name, cls, able) for name, cls in state.strategies.items())


async def list_verifiers(http: Request) -> Response:
    """List every configured verifier with the fields that a request may give it."""
    state = _state(http)
    able = _main(state)
    return _list(
        _verifier(name, each, verifier_unavailable(state, each, able))
        for name, each in state.verifiers.items()
    )


def _state(http: Request) -> State:
    state: State = http.app.state.forethought
    return state


def _main(state: State) -> Capabilities:
    return next(iter(state.service.engines.values())).capabilities


def _list(entries: Iterable[dict[str, Any]]) -> Response:
    return json_response({"object": "list", "data": list(entries)})


def _model(target: Target) -> dict[str, Any]:
    able, preset, checkpoint = target.engine.capabilities, target.preset, target.checkpoint
    return {
        "id": target.name,
        "object": "model",
        "created": 0,
        "owned_by": "forethought",
        "root": target.engine.model,
        "adapter": target.adapter,
        "checkpoint": None if checkpoint is None else checkpoint.spec,
        "version": None if checkpoint is None else checkpoint.version,
        "sha256": None if checkpoint is None else checkpoint.sha256,
        "max_model_len": able.context_length,
        "defaults": dict(able.defaults),
        "preset": None if preset is None else preset.model_dump(exclude_none=True),
    }


def _strategy(name: str, cls: type[Strategy], able: Capabilities) -> dict[str, Any]:
    plain = cls()
    reason = plain.unavailable(able)
    return {
        "name": name,
        "summary": summary(cls),
        "paper": cls.paper,
        "schema": cls.model_json_schema(),
        "defaults": _defaults(cls),
        "needs": sorted(plain.required()),
        "available": reason is None,
        "reason": reason,
    }


def _verifier(name: str, verifier: Verifier, reason: str | None) -> dict[str, Any]:
    fields = verifier.request_fields()
    return {
        "name": name,
        "type": type_name(type(verifier)),
        "summary": summary(type(verifier)),
        "paper": verifier.paper,
        "schema": fields.model_json_schema(),
        "defaults": _defaults(fields),
        "needs": ["logprobs"] * (verifier.logprobs is not None),
        "calibrated": verifier.calibration is not None,
        "available": reason is None,
        "reason": reason,
    }


def _defaults(cls: type[BaseModel]) -> dict[str, Any]:
    return {
        field.alias or name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in cls.model_fields.items()
        if name != "type" and not field.is_required()
    }
