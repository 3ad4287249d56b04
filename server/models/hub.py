"""Fetch a model from a hub, where one answers.

`HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean everywhere.
"""

from __future__ import annotations

import hashlib
import queue
import sys
import threading
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import httpx
from pydantic import BaseModel, ValidationError

from server.models import child
from server.models.errors import ModelError
from server.models.progress import AdvanceTo, Progress

PROBE_SECONDS = 3.0
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.jinja", "tokenizer.model")


class _LargeFile(BaseModel):
    sha256: str


class _File(BaseModel):
    rfilename: str
    size: int
    lfs: _LargeFile | None = None


class HubModel(BaseModel):
    """What the hub says of a model: its newest revision (`sha`) and that one's files."""

    id: str
    sha: str
    siblings: tuple[_File, ...]

    @property
    def files(self) -> tuple[_File, ...]:
        """The files that an engine needs."""
        return tuple(
            file for file in self.siblings if any(fnmatch(file.rfilename, p) for p in PATTERNS)
        )


def probe(hub_id: str) -> HubModel | None:
    """Ask the hub for this model; None where it has none, or does not answer within 3 s."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return None
    url = f"{constants.ENDPOINT}/api/models/{hub_id}?blobs=true"
    token = get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answers: queue.Queue[HubModel | None] = queue.Queue()

    def ask() -> None:
        try:
            response = httpx.get(
                url, headers=headers, timeout=PROBE_SECONDS, follow_redirects=True
            ).raise_for_status()
            answers.put(HubModel.model_validate_json(response.content))
        except (httpx.HTTPError, ValidationError):  # no hub, no such model, or a captive portal
            answers.put(None)

    # In a thread: looking up the hub's address has no time-out, and may take half a minute.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return None


def fetch(model: HubModel, partial: Path, progress: Progress) -> Path:
    """Download a model into `partial`, going on where an earlier run stopped.

    Weights are held against the sha256 that the hub lists.
    """
    if not any(file.rfilename.endswith(".safetensors") for file in model.files):
        raise ModelError(f"{model.id}: the hub has no safetensors of it. Name another model.")
    folder = partial / "hub"
    folder.mkdir(exist_ok=True)
    what = [model.id, model.sha, str(folder), *PATTERNS]
    size = sum(file.size for file in model.files)
    with progress.stage(f"Downloading {model.id} from the hub", size) as advance_to:
        try:
            child.run(
                [sys.executable, "-m", "server.models.snapshot", *what],
                log=partial / "hub.log",
                tick=_watch(folder, advance_to),
                environment={"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            )
        except child.ChildFailed as error:
            raise ModelError(
                f"{model.id}: the hub did not deliver it:\n{error}\n"
                "Try again to go on where it stopped. A gated model needs HF_TOKEN."
            ) from error
    for file in model.files:
        if file.lfs is not None:
            _check(model.id, folder / file.rfilename, file.lfs.sha256)
    return folder


def _watch(folder: Path, advance_to: AdvanceTo) -> Callable[[], None]:
    def tick() -> None:
        advance_to(child.size_of(folder.rglob("*")))

    return tick


def _check(hub_id: str, path: Path, expected: str) -> None:
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != expected:
        path.unlink()
        raise ModelError(
            f"{hub_id}: {path} has a wrong checksum and was deleted.\n"
            f"  expected sha256 {expected}\n"
            f"  got      sha256 {got}\n"
            "Try again to download it anew."
        )
