"""What the settings take from the store of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

from server.checkpoints.configured import mentioned
from server.checkpoints.exchange import ADAPTED
from server.checkpoints.library import Checkpoint, CheckpointLibrary
from server.checkpoints.store import default_root
from server.settings import Settings


def library_of(settings: Settings) -> CheckpointLibrary:
    """Return the store of checkpoints, for reading."""
    return CheckpointLibrary(settings.checkpoints or default_root())


def followed(settings: Settings) -> frozenset[str]:
    """Name the checkpoints that verifiers follow."""
    return frozenset().union(*map(mentioned, settings.verifiers.values()))


def follows(settings: Settings) -> bool:
    """Whether anything here could serve what is promoted."""
    return has_slots(settings) or bool(followed(settings))


def promoted_checkpoints(settings: Settings) -> dict[str, Checkpoint]:
    """Return what is promoted in the store, by name, if anything here could serve it."""
    return library_of(settings).promoted() if follows(settings) else {}


def has_slots(settings: Settings) -> bool:
    """Whether any engine can be given adapters while it runs."""
    return any(each.options.adapter_slots for each in (settings, *settings.engines.values()))


def slot_adapters(settings: Settings, promoted: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
    """Return what slots of engines are for; an engine's own adapter stands before one of them."""
    if not has_slots(settings):
        return {}
    own = set().union(*(each.options.adapters for each in (settings, *settings.engines.values())))
    return {
        name: each
        for name, each in promoted.items()
        if each.is_adapter and each.manifest.kind in ADAPTED and name not in own
    }
