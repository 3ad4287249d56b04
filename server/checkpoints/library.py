"""What a store of checkpoints holds, for those who only read it; `store.py` has the layout."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from server.checkpoints.evaluation import Evaluation, EvaluationError, read_evaluation
from server.checkpoints.promotions import History, HistoryError, read_history
from verifiers.manifest import MANIFEST, Manifest, ManifestError, parse_manifest, read_manifest

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
VERSION = re.compile(r"[0-9a-f]{12}")
VERSION_DIGITS = 12
PROMOTED = "promoted.json"
EVALUATIONS = "evaluations"
UNSERVED = "is an adapter that engines cannot load: prefix, prompt, P-tuning or bottleneck"
"""What a checkpoint of kind `policy` is that holds an adapter."""


class CheckpointError(ValueError):
    """There is no such checkpoint, it is not whole, or it may not be promoted."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A version of a name, with the manifest that it was read with; files are not hashed yet."""

    name: str
    sha256: str
    """Of its manifest, which has those of the files."""
    path: Path
    manifest: Manifest
    promoted: bool = False

    @property
    def version(self) -> str:
        """The first digits of the hash: its directory's name."""
        return self.sha256[:VERSION_DIGITS]

    @property
    def spec(self) -> str:
        """`NAME@VERSION`: what names it for ever."""
        return f"{self.name}@{self.version}"

    @property
    def is_adapter(self) -> bool:
        """Whether it holds an adapter of its base model, whatever its kind."""
        return "adapter_config.json" in self.manifest.files


@dataclass(frozen=True, slots=True)
class Broken:
    """Something in the store that is not what it should be."""

    path: Path
    problem: str


class CheckpointLibrary:
    """The checkpoints below one directory; it need not exist before the first is written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, spec: str) -> Checkpoint:
        """Find `NAME`, its promoted version, or `NAME@VERSION`. No file is hashed but the manifest.

        Raises:
            CheckpointError: there is none; it says which there are.
        """
        name, at, version = spec.partition("@")
        current = self.history(name).current
        if not at:
            if current is None:
                raise CheckpointError(f"no version of {name!r} is promoted: {self.known(name)}")
            version = current
        if version not in self._versions(name):
            raise CheckpointError(f"there is no checkpoint {name}@{version}: {self.known(name)}")
        return self._read(name, version, promoted=version == current)

    def promoted(self) -> dict[str, Checkpoint]:
        """Find the promoted version of every name that has one which can be read, by name."""
        found = {}
        for name in self.names():
            with suppress(CheckpointError):  # `broken` tells of it
                found[name] = self.find(name)
        return found

    def checkpoints(self) -> list[Checkpoint]:
        """List every version of every name that can be read, by name, newest last."""
        return [
            self._read(name, version, promoted=version == self._current(name))
            for name in self.names()
            for version in self._versions(name)
            if _problem(self.root / name / version) is None
        ]

    def broken(self) -> list[Broken]:
        """List what is not as it should be: versions without their manifest, strangers, ….

        Files are not hashed: `verify` does that.
        """
        found = []
        for name in self.names():
            home = self.root / name
            strangers = {path.name for path in home.iterdir() if not path.name.startswith(".")}
            strangers -= {*self._versions(name), PROMOTED, EVALUATIONS}
            found += [Broken(home / each, "it is no version") for each in sorted(strangers)]
            for version in self._versions(name):
                if problem := _problem(home / version):
                    found.append(Broken(home / version, problem))
            try:
                current = self.history(name).current
            except CheckpointError as error:
                found.append(Broken(home / PROMOTED, str(error)))
            else:
                if current is not None and current not in self._versions(name):
                    found.append(Broken(home / PROMOTED, f"{current} is promoted, and gone"))
        return found

    def names(self) -> list[str]:
        """Name what the store has directories for."""
        if not self.root.is_dir():
            return []
        found = (path.name for path in self.root.iterdir() if path.is_dir())
        return sorted(name for name in found if NAME.fullmatch(name))

    def verify(self, spec: str) -> Checkpoint:
        """Find a checkpoint and hash every file of it: seconds for each GiB.

        Raises:
            CheckpointError: it is not what was published.
        """
        found = self.find(spec)
        try:
            read_manifest(found.path)
        except ManifestError as error:
            raise CheckpointError(str(error)) from error
        return found

    def evaluation(self, checkpoint: Checkpoint) -> Evaluation | None:
        """Read what the gate measured; None: nothing yet. Raises CheckpointError."""
        try:
            return read_evaluation(self.evaluation_path(checkpoint))
        except EvaluationError as error:
            raise CheckpointError(str(error)) from error

    def history(self, name: str) -> History:
        """Read all promotions of a name. Raises CheckpointError."""
        try:
            return read_history(self.home(name) / PROMOTED)
        except HistoryError as error:
            raise CheckpointError(str(error)) from error

    def home(self, name: str) -> Path:
        """Tell where a name's versions are, or would be. Raises CheckpointError for no name."""
        if not NAME.fullmatch(name):
            raise CheckpointError(
                f"{name!r} is no name: small letters, digits, dots, hyphens and underscores, the "
                "first a letter or digit"
            )
        return self.root / name

    def _versions(self, name: str) -> list[str]:
        """Name the directories of versions, the oldest first."""
        home = self.home(name)
        if not home.is_dir():
            return []
        found = (path for path in home.iterdir() if VERSION.fullmatch(path.name))
        aged = sorted((path.stat().st_mtime_ns, path.name) for path in found if path.is_dir())
        return [version for _, version in aged]

    def known(self, name: str) -> str:
        """Say which versions there are, or which names."""
        if versions := self._versions(name):
            return f"there are {', '.join(f'{name}@{version}' for version in versions)}"
        names = ", ".join(self.names()) or "nothing"
        return f"there is no version of it; the store {self.root} has {names}"

    def _current(self, name: str) -> str | None:
        with suppress(CheckpointError):  # `broken` tells of it
            return self.history(name).current
        return None

    def _read(self, name: str, version: str, *, promoted: bool) -> Checkpoint:
        path = self.root / name / version
        if problem := _problem(path):
            raise CheckpointError(f"{name}@{version}: {problem}")
        return Checkpoint(name, manifest_digest(path), path, parse_manifest(path), promoted)

    def evaluation_path(self, checkpoint: Checkpoint) -> Path:
        """Tell where its evaluation is, or would be."""
        return self.home(checkpoint.name) / EVALUATIONS / f"{checkpoint.version}.json"


def manifest_digest(directory: Path) -> str:
    """Hash the manifest of a checkpoint."""
    return hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()


def _problem(directory: Path) -> str | None:
    """Say why a version is none; None: its manifest is there, and what it was."""
    try:
        parse_manifest(directory)
        if not manifest_digest(directory).startswith(directory.name):
            return f"{directory / MANIFEST}: not what was published"
    except ManifestError as error:
        return str(error)
    return None
