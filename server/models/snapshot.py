"""Child process of `hub`: `python -m server.models.snapshot MODEL REVISION FOLDER PATTERN…`."""

from __future__ import annotations

import sys

from server.models import child


def download(hub_id: str, revision: str, folder: str, *patterns: str) -> None:
    """Bring the files that match into `folder`, going on where an earlier run stopped."""
    from huggingface_hub import snapshot_download

    snapshot_download(hub_id, revision=revision, local_dir=folder, allow_patterns=list(patterns))


if __name__ == "__main__":
    child.end_with_parent()
    download(*sys.argv[1:])
