"""Checkpoints in a verifier's configuration: where it names them, and what stands for them then.

`model = "checkpoint:NAME"` is the directory of the promoted version, `"checkpoint:NAME@VERSION"`
of that one; `adapter = "NAME"` is the adapter that the engine holds under `NAME@VERSION`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from server.checkpoints.library import Checkpoint, CheckpointError

CHECKPOINT = "checkpoint:"
"""What comes before `NAME` or `NAME@VERSION` where a model is asked for."""
_ADAPTERS = ("adapter", "reference_adapter")

Find: TypeAlias = Callable[[str], Checkpoint]
"""From `NAME` or `NAME@VERSION` to the checkpoint. Raises CheckpointError."""


def mentioned(configuration: Mapping[str, Any]) -> set[str]:
    """Name every checkpoint, and every adapter, that a configuration follows by its name."""
    found = set()
    for key, value in _strings(configuration):
        if value.startswith(CHECKPOINT) and "@" not in value:
            found.add(value.removeprefix(CHECKPOINT))
        elif key in _ADAPTERS:
            found.add(value)
    return found


def following(configured: Mapping[str, Mapping[str, Any]], name: str) -> set[str]:
    """Name the verifiers that a promotion of `name` changes, those that have one as member too."""
    changed = {each for each, told in configured.items() if name in mentioned(told)}
    while True:
        members = {
            each
            for each, told in configured.items()
            if any(key == "verifier" and value in changed for key, value in _strings(told))
        }
        if members <= changed:
            return changed
        changed |= members


def resolved(
    configuration: Mapping[str, Any], find: Find, adapters: Mapping[str, Checkpoint]
) -> dict[str, Any]:
    """Put directories and loaded adapters in the place of names, in tables of tables too.

    `adapters` are those that engines are to hold, by their names; any other name stays. What the
    manifest says of an adapter's use is its verifier's default: calibration, step mark.

    Raises:
        CheckpointError: a checkpoint is named that is not there; it begins with the key.
    """
    changed = dict(configuration)
    for key, value in configuration.items():
        if isinstance(value, Mapping):
            changed[key] = resolved(value, find, adapters)
        elif isinstance(value, list | tuple):
            changed[key] = [
                resolved(each, find, adapters) if isinstance(each, Mapping) else each
                for each in value
            ]
        elif key == "model" and isinstance(value, str) and value.startswith(CHECKPOINT):
            changed[key] = str(_found(key, value.removeprefix(CHECKPOINT), find).path)
        elif key in _ADAPTERS and value in adapters:
            changed[key] = adapters[value].spec
            if key == "adapter":
                changed = _defaults(configuration, adapters[value]) | changed
    return changed


def _found(key: str, spec: str, find: Find) -> Checkpoint:
    try:
        return find(spec)
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from error


def _defaults(configuration: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    manifest = checkpoint.manifest
    defaults: dict[str, Any] = {}
    if manifest.calibration is not None:
        defaults["calibration"] = manifest.calibration.model_dump()
    if manifest.step_mark is not None and configuration.get("type") == "process_reward":
        defaults["mark"] = manifest.step_mark
    return defaults


def _strings(configuration: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give every string of a table, and of tables in it, with its key."""
    for key, value in configuration.items():
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, Mapping):
            yield from _strings(value)
        elif isinstance(value, list | tuple):
            for each in value:
                if isinstance(each, Mapping):
                    yield from _strings(each)
