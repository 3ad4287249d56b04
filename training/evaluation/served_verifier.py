"""How a server serves a checkpoint as a verifier: what an evaluation starts it with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.evaluation.held_out import CHECKPOINT
from training.evaluation.order import EvaluationFailed, Order

TYPES = {"orm": "outcome_reward", "prm": "process_reward", "generative": "generative"}
"""Which verifier reads a kind of checkpoint, where nothing else is said."""
LOADED = ("outcome_reward", "value_head")
"""Verifiers that load the checkpoint themselves; all others ask an engine that has."""
_PATIENCE_S = 900.0


def server_settings(order: Order, name: str) -> dict[str, Any]:
    """Return settings of a server that has the checkpoint as the verifier `name`.

    An adapter is served beside its base, under `name` as well. The gate's `configuration` is laid
    over what the recipe trained it for.

    Raises:
        EvaluationFailed: nothing says which verifier reads it.
    """
    told = _told(order)
    if told["type"] in LOADED:
        own = {"model": str(order.checkpoint.path.resolve()), "timeout_s": _PATIENCE_S}
        if told["type"] == "outcome_reward":
            own["backend"] = "transformers"
        return {"engine": "scripted", "verifiers": {name: {**own, **told}}}
    from training.models import find_base

    base = find_base(f"{CHECKPOINT}{order.checkpoint.spec}", order.store, order.progress)
    settings: dict[str, Any] = {"engine": "vllm", "model": str(base.path.resolve())}
    if base.adapter is not None:
        settings["options"] = {"adapters": {name: str(base.adapter.resolve())}}
        told = {"adapter": name, **told}
    return {**settings, "verifiers": {name: told}}


def _told(order: Order) -> dict[str, Any]:
    """Lay the gate's configuration over the recipe's, that over the manifest's."""
    manifest = order.checkpoint.manifest
    told: dict[str, Any] = {"type": TYPES.get(manifest.kind)}
    if manifest.step_mark is not None and manifest.kind == "prm":
        told["mark"] = manifest.step_mark
    told |= _trained_for(manifest.config.get("method") or {})
    chosen = order.gate.configuration
    if chosen.get("type", told["type"]) != told["type"]:
        told = {}  # another verifier has other fields
    told |= chosen
    if told.get("type") is None:
        raise EvaluationFailed(
            f"a checkpoint of kind {manifest.kind} is measured on a `task`; for a pool, "
            "`configuration` must say the `type` of a verifier that reads it"
        )
    return told


def _trained_for(method: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the verifier in a method's parameters, or in those of the method inside it."""
    inner: Mapping[str, Any] = method.get("method") or method
    return inner.get("verifier") or {}
