"""What answers hang on that no request says: weights, engines' settings, tables, our version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from server.engines.vllm_machine import adapter_digest
from server.models import ModelDirectory
from server.models.store import MARKER
from server.settings import MAIN_ENGINE, EngineSettings, Settings
from strategies.allocation import Table
from verifiers.types import Engine

_WITHOUT_EFFECT = frozenset({"api_key", "delay_s", "options"})
_OPTIONS_WITHOUT_EFFECT = frozenset(
    {"adapters", "adapter_slots", "gpu_memory_utilization", "kv_cache_gib", "max_num_seqs"}
)
"""How much fits at once; every other option may show in the output."""
_WHOLE = 16 << 20
"""Files up to this size are hashed whole."""
_BLOCK, _BLOCKS = 1 << 16, 64
"""Of larger ones, so many pieces: weights that were trained differ everywhere."""


def fingerprint(
    settings: Settings,
    engines: Mapping[str, Engine],
    models: Mapping[str, ModelDirectory],
    tables: Mapping[str, Table],
) -> str:
    """Hash what is fixed while the server runs; takes seconds where weights are large."""
    configured: dict[str, EngineSettings] = {MAIN_ENGINE: settings, **settings.engines}
    told = {
        "version": version("forethought"),
        "engines": {
            name: _engine(configured[name], engine, models.get(name))
            for name, engine in engines.items()
        },
        "tables": {name: table.model_dump(mode="json") for name, table in tables.items()},
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def directory_digest(directory: Path) -> str:
    """Hash a model's files: their names, their sizes, and what stands in them at many places."""
    digest = hashlib.sha256()
    for path in sorted(_files(directory)):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(directory)} {size}\n".encode())
        with path.open("rb") as file:
            for place in _places(size):
                file.seek(place)
                digest.update(file.read(_WHOLE if size <= _WHOLE else _BLOCK))
    return digest.hexdigest()


def _engine(
    settings: EngineSettings, engine: Engine, model: ModelDirectory | None
) -> dict[str, Any]:
    fields = frozenset(EngineSettings.model_fields) - _WITHOUT_EFFECT
    options = settings.options
    return {
        "settings": settings.model_dump(mode="json", include=set(fields)),
        "options": options.model_dump(mode="json", exclude=set(_OPTIONS_WITHOUT_EFFECT)),
        "adapters": {name: adapter_digest(path) for name, path in options.adapters.items()},
        "model": engine.model,
        "context_length": engine.capabilities.context_length,
        "defaults": dict(engine.capabilities.defaults),
        "files": None if model is None else directory_digest(model.path),
    }


def _files(directory: Path) -> Iterator[Path]:
    """Give a model's files; what a download leaves beside them tells of its time, not of it."""
    for path in directory.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if path.is_file() and not hidden and path.name != MARKER:
            yield path


def _places(size: int) -> range:
    return range(1) if size <= _WHOLE else range(0, size - _BLOCK + 1, (size - _BLOCK) // _BLOCKS)
