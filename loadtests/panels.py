"""The expressions of a Grafana dashboard, asked of a Prometheus."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx

INTERVAL = "1m"
"""What Grafana takes for a rate where Prometheus looks every 15 s."""


def expressions(dashboard: Path) -> list[str]:
    """Return what all panels ask, for everything that the dashboard's variables can be."""
    board = json.loads(dashboard.read_text())
    meant = {"$__rate_interval": INTERVAL, "$__range": INTERVAL}
    for each in board["templating"]["list"]:
        meant[f"${each['name']}"] = each["query"] if each["type"] == "textbox" else ".*"
    names = re.compile("|".join(map(re.escape, sorted(meant, reverse=True))))
    found = dict.fromkeys(_targets(board["panels"]))
    return [names.sub(lambda match: meant[match[0]], each) for each in found]


def _targets(panels: Iterable[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield from _targets(panel.get("panels", ()))
        for target in panel.get("targets", ()):
            yield target["expr"]


def empty(prometheus: str, wanted: Iterable[str]) -> list[str]:
    """Return the expressions that find no number there now."""
    return [each for each in wanted if not any(map(math.isfinite, values(prometheus, each)))]


def values(prometheus: str, expression: str) -> list[float]:
    """Evaluate an expression now. Raises HTTPStatusError where it is none."""
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression}, timeout=30)
    answer.raise_for_status()
    data = answer.json()["data"]
    if data["resultType"] == "scalar":
        return [float(data["result"][1])]
    return [float(each["value"][1]) for each in data["result"]]
