"""Whole models of the store, as engines load them: `model = "checkpoint:NAME[@VERSION]"`."""

from __future__ import annotations

from server.checkpoints.configured import CHECKPOINT
from server.checkpoints.library import UNSERVED, CheckpointError, CheckpointLibrary
from server.models.catalogue import Catalogue
from server.models.errors import ModelError
from server.models.store import ModelDirectory


def checkpoint_model(library: CheckpointLibrary, spec: str, catalogue: Catalogue) -> ModelDirectory:
    """Find and verify a policy; it is served under its NAME.

    Raises:
        ModelError: there is none, it is damaged, or is no whole model.
    """
    try:
        found = library.verify(spec)
        if found.manifest.kind != "policy":
            kind = found.manifest.kind
            raise ModelError(f"{found.spec} is a checkpoint of kind {kind}, not a whole model")
        if found.is_adapter:
            raise ModelError(f"{found.spec} {UNSERVED}")
        entry = catalogue.find(_origin(library, found.manifest.base_model))
    except CheckpointError as error:
        raise ModelError(str(error)) from error
    tool_parser = None if entry is None else entry.tool_parser
    return ModelDirectory(found.path, found.name, tool_parser=tool_parser, checkpoint=found.spec)


def names_of(model: ModelDirectory) -> frozenset[str]:
    """Return what manifests call a model that something was made on."""
    if model.checkpoint is not None:
        return frozenset({f"{CHECKPOINT}{model.checkpoint}"})
    return frozenset({model.name, *([model.hub_id] if model.hub_id else [])})


def _origin(library: CheckpointLibrary, base: str) -> str:
    """Follow what was made on what, down to a model that is no checkpoint."""
    while base.startswith(CHECKPOINT):
        base = library.find(base.removeprefix(CHECKPOINT)).manifest.base_model
    return base
