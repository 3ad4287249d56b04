"""What the application holds while it runs: built once at start, handed to every route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.cache.flights import Flights
from server.checkpoints.exchange import Exchange
from server.checkpoints.in_flight import InFlight
from server.checkpoints.library import Checkpoint
from server.draining import Draining
from server.keys.ring import KeyRing
from server.metrics import Metrics
from server.settings import Settings
from server.store.base import Store
from server.telemetry.base import Tracing, Untraced
from server.traces import Traces
from strategies.base import Strategy
from strategies.request import Service
from verifiers.base import Verifier


@dataclass(frozen=True, slots=True)
class State:
    """Settings, engines, strategies and verifiers of one server."""

    settings: Settings
    service: Service
    strategies: Mapping[str, type[Strategy]]
    verifiers: Mapping[str, Verifier]
    """Configured verifiers by the name that requests use; promotions put others in their place."""
    metrics: Metrics
    traces: Traces | None
    """None unless traces are switched on."""
    exchange: Exchange
    """What is served of the store of checkpoints."""
    store: Store
    """What outlives a request, and what replicas share."""
    keys: KeyRing
    """Those that open this server, where it asks for keys."""
    models: Mapping[str, Checkpoint] = field(default_factory=dict)
    """The checkpoints that engines were started with, by the engine's name."""
    in_flight: InFlight = field(default_factory=InFlight)
    draining: Draining = field(default_factory=Draining)
    tracing: Tracing = field(default_factory=Untraced)
    fingerprint: str = ""
    """Of all that answers hang on and no request says: see `server.cache.fingerprint`."""
    flights: Flights = field(default_factory=Flights)
    """Answers in the making that equal requests wait for."""
