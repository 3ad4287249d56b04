"""How names and values are written: in ASCII alone.

Clients may send half of a surrogate pair, which neither SQLite nor Redis takes. In a written name
there is no control character either, so that a line feed can part two of them.
"""

from __future__ import annotations

import json
from typing import cast

from verifiers.types import JSONObject


def write_name(name: str) -> str:
    """Write a name; ordinary ones stay as they are."""
    return json.dumps(name)[1:-1]


def read_name(written: str) -> str:
    """Read a name that was written."""
    return cast(str, json.loads(f'"{written}"'))


def write_value(value: JSONObject) -> str:
    """Write a JSON object."""
    return json.dumps(value, separators=(",", ":"))


def read_value(written: str | bytes) -> JSONObject:
    """Read a JSON object that was written."""
    return cast(JSONObject, json.loads(written))
