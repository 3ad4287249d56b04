"""Where checkpoints are kept, and which of them are served.

    ROOT/NAME/VERSION/                 a checkpoint (verifiers/manifest.py); VERSION: the first 12
                                       hexadecimal digits of the sha256 of its manifest.json, so
                                       that a version never changes
    ROOT/NAME/promoted.json            the history of promotions (promotions.py)
    ROOT/NAME/evaluations/VERSION.json what the gate measured (evaluation.py)
    ROOT/NAME/.draft-…/                a checkpoint that is being written, its directory locked by
                                       the process that writes
    ROOT/NAME/.lock                    held by who changes anything above

Every change is one rename, after what it shows has reached the disk: whoever is killed leaves the
old state or the new one, and at most a draft, which the next writer sweeps away. Readers need no
lock.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from server.checkpoints.durable import flush, flush_tree, locked, write_file
from server.checkpoints.evaluation import (
    Evaluation,
    EvaluationError,
    bar_of,
    departures,
    points,
)
from server.checkpoints.library import (
    PROMOTED,
    VERSION_DIGITS,
    Broken,
    Checkpoint,
    CheckpointError,
    CheckpointLibrary,
    manifest_digest,
)
from server.checkpoints.promotions import write_history
from server.models.store import cache_directory
from verifiers.manifest import Manifest, ManifestError, read_manifest, write_manifest

__all__ = ["Broken", "Checkpoint", "CheckpointError", "CheckpointStore", "default_root"]

_DRAFT = ".draft-"


class CheckpointStore(CheckpointLibrary):
    """The checkpoints below one directory, and what changes them."""

    @contextmanager
    def draft(self, name: str) -> Iterator[Path]:
        """Give an empty directory to write a checkpoint's files into, then to `publish` it.

        It is removed when the block ends, unless it was published; killed, it is left to the next
        writer of this name. Raises CheckpointError for a name that is none.
        """
        home = self.home(name)
        home.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            with self._changing(name):
                _sweep(home)
                directory = Path(mkdtemp(prefix=_DRAFT, dir=home))
                directory.chmod(0o755)
                stack.enter_context(locked(directory))
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)

    def publish(self, draft: Path, manifest: Manifest) -> Checkpoint:
        """Make a version of a draft: what it holds now, for ever. The same content is one version.

        Raises:
            CheckpointError: it is no draft of this store.
        """
        name, home = draft.parent.name, draft.parent
        if home != self.home(name) or not draft.name.startswith(_DRAFT):
            raise CheckpointError(f"{draft} is no draft of the store {self.root}")
        whole = write_manifest(draft, manifest)
        flush_tree(draft)
        digest = manifest_digest(draft)
        target = home / digest[:VERSION_DIGITS]
        with self._changing(name):
            if target.exists() and _is_whole(target):
                shutil.rmtree(draft)
            else:
                if target.exists():
                    target.rename(mkdtemp(prefix=_DRAFT, dir=home))  # swept later
                draft.rename(target)
                flush(home)
        promoted = self.history(name).current == target.name
        return Checkpoint(name, digest, target, whole, promoted)

    def record_evaluation(self, evaluation: Evaluation) -> None:
        """Keep what the gate measured, in place of what it measured before.

        Raises:
            CheckpointError: there is no such checkpoint.
        """
        checkpoint = self.find(evaluation.checkpoint)
        path = self.evaluation_path(checkpoint)
        with self._changing(checkpoint.name):
            path.parent.mkdir(exist_ok=True)
            write_file(path, evaluation.model_dump_json(indent=1) + "\n")

    def promote(self, spec: str, *, force: bool = False) -> Checkpoint:
        """Make `NAME@VERSION` the one that NAME means, if the gate lets it; one that is stays.

        Raises:
            CheckpointError: it is not whole, or was not evaluated, or its gain's lower bound is
                below the recipe's bar; `force` overrules the last two, and is recorded.
        """
        if "@" not in spec:
            raise CheckpointError(f"name a version of {spec!r}: {self.known(spec)}")
        found = self.verify(spec)
        refusal = self._refusal(found)
        if refusal is not None and not force:
            raise CheckpointError(f"{spec} is not promoted: {refusal}")
        with self._changing(found.name):
            history = self.history(found.name)
            if history.current != found.version:
                history = history.promoted(found.version, reason=refusal)
                write_history(self.home(found.name) / PROMOTED, history)
        return self.find(spec)

    def rollback(self, name: str) -> Checkpoint:
        """Take the last promotion back; return what is promoted then.

        Raises:
            CheckpointError: there is none before it, or that is not whole any more.
        """
        self.home(name)
        with self._changing(name):
            history = self.history(name)
            if history.previous is None:
                raise CheckpointError(f"nothing was promoted before: {self.known(name)}")
            before = self.verify(f"{name}@{history.previous}")
            write_history(self.home(name) / PROMOTED, history.rolled_back())
        return self.find(before.spec)

    def _refusal(self, checkpoint: Checkpoint) -> str | None:
        """Say why the gate does not let it through; None if it does."""
        evaluation = self.evaluation(checkpoint)
        if evaluation is None:
            return f"it was not evaluated: forethought evaluate {checkpoint.spec}"
        try:
            bar = bar_of(checkpoint.manifest)
        except EvaluationError as error:
            return str(error)
        if changed := departures(evaluation, checkpoint.manifest):
            return f"it was not measured by its recipe's gate: {', '.join(changed)} differ"
        if evaluation.lower < bar:
            return f"{evaluation.figures}; the recipe's bar is {points(bar)}"
        return None

    @contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        home = self.home(name)
        if not home.is_dir():
            raise CheckpointError(f"there is no checkpoint {name!r} in {self.root}")
        (home / ".lock").touch()
        with locked(home / ".lock"):
            yield


def default_root() -> Path:
    """Where checkpoints are kept if nothing else is said: beside the models."""
    return cache_directory() / "checkpoints"


def _is_whole(directory: Path) -> bool:
    try:
        read_manifest(directory)
    except ManifestError:
        return False
    return True


def _sweep(home: Path) -> None:
    """Remove the drafts that no process holds any more."""
    for abandoned in home.glob(f"{_DRAFT}*"):
        with suppress(BlockingIOError, FileNotFoundError), locked(abandoned, wait=False):
            shutil.rmtree(abandoned)
