"""Recordings of live runs: a JSON object a line, appended to while they are made, then kept."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read a recording, compressed or not; none yet: no rows."""
    if not path.exists():
        return []
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line) for line in lines]
