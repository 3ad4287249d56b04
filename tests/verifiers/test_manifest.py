"""Manifests: what is written is what is read, and whatever was changed since is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from verifiers.calibration import Temperature
from verifiers.manifest import (
    MANIFEST,
    Manifest,
    ManifestError,
    read_manifest,
    tokenizer_digest,
    write_manifest,
)

TOKENIZER = {"version": "1.0", "padding": None, "model": {"vocab": {"a": 0}}}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "part").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "part" / "more.safetensors").write_bytes(b"more")
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return tmp_path


def manifest_of(directory: Path) -> Manifest:
    return Manifest(
        kind="orm",
        base_model="org/base",
        tokenizer=tokenizer_digest(directory),
        calibration=Temperature(temperature=2.0),
        metrics={"auc": 0.9},
        config={"recipe": {"lr": 1e-5}},
    )


def test_it_is_read_as_it_was_written(directory: Path) -> None:
    written = write_manifest(directory, manifest_of(directory))
    read = read_manifest(
        directory, kinds=("orm", "prm"), base_model="org/base", tokenizer=written.tokenizer
    )
    assert read == written
    assert sorted(read.files) == [
        "model.safetensors",
        "part/more.safetensors",
        "tokenizer.json",
    ]
    assert not list(directory.glob(".*"))


def test_writing_again_changes_nothing(directory: Path) -> None:
    first = write_manifest(directory, manifest_of(directory))
    assert write_manifest(directory, first) == first


def change(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes(b"changed")


def edit(**fields: object) -> Callable[[Path], object]:
    def edited(directory: Path) -> None:
        data = json.loads((directory / MANIFEST).read_text())
        (directory / MANIFEST).write_text(json.dumps(data | fields))

    return edited


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda d: (d / MANIFEST).unlink(), "No such file"),
        (change(MANIFEST), "Invalid JSON"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: missing"),
        (change("part/more.safetensors"), "more.safetensors: not what was written"),
        (lambda d: (d / "code.py").write_text("1"), "code.py: not in its manifest"),
        (edit(kind="rm"), "kind: Input should be"),
        (edit(version=2), "version: Input should be 1"),
        (edit(colour="red"), "colour: Extra inputs"),
        (edit(files={"../secret": "0" * 64}), "inside the checkpoint"),
        (edit(files={"/etc/passwd": "0" * 64}), "inside the checkpoint"),
        (edit(tokenizer="0" * 64), "not the tokenizer that it names"),
        (edit(calibration={"kind": "temperature", "temperature": -1}), "calibration"),
    ],
)
def test_whatever_was_changed_is_found(
    directory: Path, damage: Callable[[Path], object], problem: str
) -> None:
    write_manifest(directory, manifest_of(directory))
    damage(directory)
    with pytest.raises(ManifestError, match=problem):
        read_manifest(directory)


def test_a_checkpoint_for_something_else_is_refused(directory: Path) -> None:
    write_manifest(directory, manifest_of(directory))
    with pytest.raises(ManifestError, match="kind orm, not lora or policy"):
        read_manifest(directory, kinds=("lora", "policy"))
    with pytest.raises(ManifestError, match="for org/base, not for org/other"):
        read_manifest(directory, base_model="org/other")
    with pytest.raises(ManifestError, match="another tokenizer"):
        read_manifest(directory, tokenizer="0" * 64)


def test_hidden_files_are_not_the_checkpoint_s_own(directory: Path) -> None:
    write_manifest(directory, manifest_of(directory))
    (directory / ".cache").mkdir()
    (directory / ".cache" / "lock").write_text("")
    read_manifest(directory)


def test_the_tokenizer_is_what_it_does_not_how_it_was_saved(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    padded = {"model": {"vocab": {"a": 0}}, "padding": {"length": 8}, "version": "1.0"}
    for path, parts in ((one, TOKENIZER), (same, padded), (other, {"model": {"vocab": {"b": 0}}})):
        path.mkdir()
        (path / "tokenizer.json").write_text(json.dumps(parts))
    assert tokenizer_digest(one) == tokenizer_digest(same) != tokenizer_digest(other)
    with pytest.raises(ManifestError, match="No such file"):
        tokenizer_digest(tmp_path)
