"""What makes two requests the same: everything that an answer hangs on, and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from server.convert import Order, described

FORMAT = 1
"""Of what is kept under a key."""
_NOT_ASKED = frozenset({"cache_salt"})
"""Parts of a prompt that are the server's, and change no answer."""
_NOT_DRAWN = frozenset({"incremental"})
"""Parts of sampling that say who reads along."""


def answer_key(order: Order, engine: str, fingerprint: str, owner: str) -> str:
    """Hash all that the answer to an order hangs on.

    Args:
        order: the request, with all defaults filled in.
        engine: the configuration's name of the engine that answers.
        fingerprint: of the server: see `server.cache.fingerprint`.
        owner: whose answers these are; empty where keys share them.
    """
    told = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "owner": owner,
        "engine": engine,
        **canonical(order),
    }
    # Nothing is sorted: a chat template may write an object in the order in which it came.
    return hashlib.sha256(json.dumps(told, separators=(",", ":")).encode()).hexdigest()


def canonical(order: Order) -> dict[str, Any]:
    """Write down what was asked, as it was understood, in one order whatever the client's was."""
    wire, judge = order.wire, order.judge
    return {
        "model": order.model,
        "prompt": _without(asdict(order.session.prompt), _NOT_ASKED),
        "sampling": _without(asdict(order.sampling), _NOT_DRAWN),
        "n": order.n,
        "strategy": order.name,
        "parameters": order.strategy.model_dump(mode="json", serialize_as_any=True),
        "verifier": judge.name,
        "verifier_fields": dict(judge.fields),
        "verifier_configuration": None
        if judge.verifier is None
        else judge.verifier.model_dump(mode="json", serialize_as_any=True),
        "budget": described(order.request.ledger.budget),
        "candidates": bool(wire.include and "candidates" in wire.include),
        "logprobs": bool(wire.logprobs),
    }


def _without(fields: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}
