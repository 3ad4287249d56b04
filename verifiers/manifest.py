"""What a checkpoint is: `manifest.json`, written last, so that its existence means completeness.

Training writes it, the server reads it: nothing of a checkpoint is loaded before every file has
been found to be what was written, and the base model and the tokenizer to be those it was made on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from verifiers.calibration import Calibration

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
_PADDING = ("version", "truncation", "padding")
"""Parts of a tokenizer's file that change when it is saved after use, and mean nothing."""

Kind: TypeAlias = Literal["policy", "lora", "orm", "prm", "generative"]
"""A whole policy; an adapter of one; a reward model of outcomes, of steps; a judge that writes."""
KINDS: tuple[Kind, ...] = get_args(Kind)


class ManifestError(ValueError):
    """A directory is no checkpoint, or not the one that it says it is."""


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name == MANIFEST:
        raise ValueError(f"{name!r} is no path of a file inside the checkpoint")
    return name


Digest: TypeAlias = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A sha256 in hexadecimal digits."""


class Manifest(BaseModel):
    """What a checkpoint is, what it was made from, and what is in its directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    kind: Kind
    base_model: str = Field(min_length=1, description="Hub id of what it was trained from.")
    tokenizer: Digest = Field(description="`tokenizer_digest` of what it was trained with.")
    step_mark: str | None = Field(None, description="prm: what stands after each step.")
    calibration: Calibration | None = None
    metrics: Mapping[str, FiniteFloat] = Field(default_factory=dict)
    config: Mapping[str, Any] = Field(default_factory=dict, description="The resolved recipe.")
    files: Mapping[Annotated[str, AfterValidator(_inside)], Digest] = Field(
        default_factory=dict, description="sha256 of every other file, by its path in here."
    )


def write_manifest(directory: Path, manifest: Manifest) -> Manifest:
    """Hash the directory's files and write the manifest, whole or not at all; return it."""
    hashed = {name: _sha256(directory / name) for name in sorted(_names(directory))}
    whole = manifest.model_copy(update={"files": hashed})
    draft = directory / f".{MANIFEST}"
    with draft.open("w", encoding="utf-8") as file:
        file.write(whole.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(directory / MANIFEST)
    return whole


def parse_manifest(directory: Path) -> Manifest:
    """Read what a checkpoint says that it is; its files are not looked at.

    Raises:
        ManifestError: there is no manifest, or it is none.
    """
    try:
        return Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except OSError as error:
        raise ManifestError(f"{directory / MANIFEST}: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise ManifestError(f"{directory / MANIFEST}: {place}: {fault['msg']}") from error


def read_manifest(
    directory: Path,
    *,
    kinds: Collection[Kind] = KINDS,
    base_model: str | None = None,
    tokenizer: str | None = None,
) -> Manifest:
    """Read a checkpoint's manifest and hold everything it says against what is there.

    `kinds`, `base_model` and `tokenizer` (a `tokenizer_digest`) are what the caller can use; None:
    any. Reads every file once: seconds for each GiB.

    Raises:
        ManifestError: there is none, it is not one, a file is missing, changed or not listed, or
            it is for something else.
    """
    manifest = parse_manifest(directory)
    _check_purpose(directory, manifest, kinds, base_model, tokenizer)
    _check_files(directory, manifest)
    if TOKENIZER in manifest.files and tokenizer_digest(directory) != manifest.tokenizer:
        raise ManifestError(f"{directory}: {TOKENIZER} is not the tokenizer that it names")
    return manifest


def tokenizer_digest(directory: Path) -> str:
    """Hash what a directory's tokenizer does: two that cut every text alike have one digest.

    Raises:
        ManifestError: there is no `tokenizer.json`, or it is none.
    """
    path = directory / TOKENIZER
    try:
        parts = json.loads(path.read_bytes())
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ManifestError(f"{path}: not JSON: {error}") from error
    if not isinstance(parts, dict):
        raise ManifestError(f"{path}: not a tokenizer")
    kept = {key: value for key, value in parts.items() if key not in _PADDING}
    written = json.dumps(kept, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()


def _check_purpose(
    directory: Path,
    manifest: Manifest,
    kinds: Collection[Kind],
    base_model: str | None,
    tokenizer: str | None,
) -> None:
    if manifest.kind not in kinds:
        wanted = " or ".join(kinds)
        raise ManifestError(f"{directory} is a checkpoint of kind {manifest.kind}, not {wanted}")
    if base_model is not None and manifest.base_model != base_model:
        raise ManifestError(f"{directory} is for {manifest.base_model}, not for {base_model}")
    if tokenizer is not None and manifest.tokenizer != tokenizer:
        raise ManifestError(f"{directory} was made with another tokenizer")


def _check_files(directory: Path, manifest: Manifest) -> None:
    there = set(_names(directory))
    if missing := sorted(manifest.files.keys() - there):
        raise ManifestError(f"{directory}: {', '.join(missing)}: missing")
    if added := sorted(there - manifest.files.keys()):
        raise ManifestError(f"{directory}: {', '.join(added)}: not in its manifest")
    for name, digest in manifest.files.items():
        if _sha256(directory / name) != digest:
            raise ManifestError(f"{directory / name}: not what was written: another sha256")


def _names(directory: Path) -> Iterator[str]:
    """Name the files of a checkpoint; hidden ones are not its own."""
    for path in directory.rglob("*"):
        name = path.relative_to(directory)
        if path.is_file() and str(name) != MANIFEST and not any(p[0] == "." for p in name.parts):
            yield name.as_posix()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
