"""Whether the answer to a request is shared, with whom, and how old it may be."""

from __future__ import annotations

from dataclasses import dataclass

from server.cache.key import answer_key
from server.convert import Order
from server.identity import Identity
from server.settings import CacheSettings
from server.state import State
from server.wire import CacheFields, ChatRequest
from verifiers.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Terms:
    """How an answer is shared."""

    key: str
    owner: str
    """Empty where keys share."""
    ttl_s: float


def cache_terms(order: Order, state: State, identity: Identity) -> Terms | None:
    """Read how the answer is to be shared; None: not at all.

    Raises:
        BadRequest: the request asks for what the settings do not allow.
    """
    allowed = state.settings.result_cache
    _check(order.wire, allowed)
    if not _wanted(order, allowed):
        return None
    owner = "" if allowed.shared else identity.owner
    engines = state.service.engines.items()
    engine = next(name for name, each in engines if each is order.engine)
    key = answer_key(order, engine, state.fingerprint, owner)
    return Terms(key, owner, _asked(order.wire) or allowed.ttl_s)


def _check(wire: ChatRequest, allowed: CacheSettings) -> None:
    if wire.cache and allowed.use == "off":
        raise BadRequest("this server keeps no answers: see `result_cache.use`", param="cache")
    if (_asked(wire) or 0) > allowed.max_ttl_s:
        raise BadRequest(
            f"this server keeps answers at most {allowed.max_ttl_s:g} s", param="cache.ttl_s"
        )


def _wanted(order: Order, allowed: CacheSettings) -> bool:
    if order.wire.cache is not None:
        return order.wire.cache is not False
    reproducible = order.sampling.seed is not None or order.sampling.temperature == 0
    return allowed.use == "reproducible" and reproducible


def _asked(wire: ChatRequest) -> float | None:
    return wire.cache.ttl_s if isinstance(wire.cache, CacheFields) else None
