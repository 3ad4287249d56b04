"""The stub upstream on a bad day: late, refusing, breaking off; and it counts what it gave to whom.

    python -m tests.unreliable_upstream --port 9000 --seed 1

Only requests whose messages hold a mark such as `soak-12` have bad luck; which, seed and mark say.
`GET /tally` counts by mark the tokens of whole answers, and those of answers that were broken off
or hung up on, of which their reader may have seen some.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.stub_replies import JSON
from tests.stub_upstream import Fault, Record, Stub

MARK = re.compile(r"soak-\d+")
_FAULTS = {
    "none": 0.50,
    "late": 0.30,
    "very late": 0.04,
    "never": 0.005,
    "error": 0.04,
    "busy": 0.06,
    "garbage": 0.02,
    "hang-up": 0.035,
}
"""How often what happens."""


class Tally(list[Record]):
    """Records of running requests; what has ended is only counted."""

    def __init__(self) -> None:
        self.tokens: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        """By mark: of whole answers, and of others."""
        self.requests = 0

    def append(self, record: Record) -> None:
        """Take a request on."""
        self.requests += 1
        self.fold()
        super().append(record)

    def fold(self) -> None:
        """Count what has ended."""
        ended = [each for each in self if each.finished or each.aborted]
        self[:] = [each for each in self if not (each.finished or each.aborted)]
        for record in ended:
            self.tokens[mark_of(record.body)][not _whole(record)] += len(record.tokens)


@dataclass
class Unreliable(Stub):
    """A stub with bad luck."""

    seed: int = 0
    tally: Tally = field(default_factory=Tally)
    faulty: Counter[str] = field(default_factory=Counter)
    _asked: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.records = self.tally

    def app(self) -> Starlette:
        """Serve the tally, too."""
        app = super().app()
        app.routes.append(Route("/tally", self._tell))
        return app

    def next_fault(self, body: JSON) -> Fault | None:
        """Draw by the mark, and by how many requests had it."""
        if not (mark := mark_of(body)):
            return None
        self._asked[mark] += 1
        draw = random.Random(f"{self.seed} {mark} {self._asked[mark]}")
        [name] = draw.choices(list(_FAULTS), list(_FAULTS.values()))
        self.faulty[name] += 1
        return _fault(name, draw)

    def _tell(self, request: Request) -> Response:
        self.tally.fold()
        return JSONResponse(
            {
                "tokens": self.tally.tokens,
                "requests": self.tally.requests,
                "running": len(self.tally),
                "faults": self.faulty,
            }
        )


def mark_of(body: JSON) -> str:
    """Find the mark of a request; empty where it has none."""
    said: Any = body.get("messages") or body.get("prompt") or ""
    found = MARK.search(to_json(said).decode())
    return found[0] if found else ""


def _fault(name: str, draw: random.Random) -> Fault | None:
    match name:
        case "late":
            return Fault(header_delay=draw.uniform(0.0, 0.2))
        case "very late":
            return Fault(header_delay=draw.uniform(1.0, 3.0))
        case "never":
            return Fault(header_delay=3600.0)
        case "error":
            return Fault(status=draw.choice((400, 500, 502)))
        case "busy":
            return Fault(status=draw.choice((429, 503)), headers={"retry-after": "0"})
        case "garbage":
            return Fault(body=draw.choice((b"", b"{", b"<html>", b"null", b'{"choices": []}')))
        case "hang-up":
            return Fault(disconnect_after=draw.randrange(30))
    return None


def _whole(record: Record) -> bool:
    fault = record.fault
    unbroken = fault is None or (fault.disconnect_after is None and fault.body is None)
    return record.aborted is None and unbroken


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--interval", type=float, default=0.002, help="seconds per token")
    options = parser.parse_args()
    stub = Unreliable(interval=options.interval, seed=options.seed)
    uvicorn.run(
        stub.app(), port=options.port, log_level="critical", ws="none", lifespan="off",
        timeout_graceful_shutdown=1,
    )  # fmt: skip


if __name__ == "__main__":
    main()
