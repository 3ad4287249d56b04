"""How a server follows the store of checkpoints: what its engines can hold, and who looks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from server.checkpoints.exchange import Exchange
from server.checkpoints.in_flight import InFlight
from server.checkpoints.policies import names_of
from server.checkpoints.shelf import AdapterShelf
from server.checkpoints.watcher import Watcher
from server.configuration import ConfigurationError
from server.consistency import rebuild_verifiers
from server.models import ModelDirectory
from server.promoted import followed, library_of
from server.settings import Settings
from server.state import State
from verifiers.base import Verifier
from verifiers.manifest import ManifestError, tokenizer_digest
from verifiers.types import AdapterHost, Engine


def make_exchange(
    settings: Settings,
    judges: Mapping[str, type[Verifier]],
    engines: Mapping[str, Engine],
    models: Mapping[str, ModelDirectory],
    verifiers: dict[str, Verifier],
    in_flight: InFlight,
) -> Exchange:
    """Make what puts promoted checkpoints in the place of others.

    Raises:
        ConfigurationError: an engine has slots for adapters, and its tokenizer cannot be read.
    """
    shelves = {}
    for name, engine in engines.items():
        if isinstance(engine, AdapterHost) and engine.adapter_slots:
            model = models.get(name)
            named = frozenset({engine.model}) if model is None else names_of(model)
            shelves[name] = AdapterShelf(engine, named, _tokenizer(model))
    rebuild = partial(rebuild_verifiers, settings, judges, verifiers)
    return Exchange(shelves, verifiers, rebuild, in_flight)


def make_watcher(state: State) -> Watcher:
    """Make what notices promotions."""
    settings, count = state.settings, state.metrics.promotion
    return Watcher(library_of(settings), state.exchange, followed(settings), settings.follow, count)


def _tokenizer(model: ModelDirectory | None) -> str | None:
    try:
        return None if model is None else tokenizer_digest(model.path)
    except ManifestError as error:
        raise ConfigurationError([f"options.adapter_slots: {error}"]) from error
