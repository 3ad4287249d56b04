"""A server that scores by a hash of the text, for verifiers that ask one over HTTP.

`with running_scorer() as scorer:` gives `scorer.url`. It has our own `/v1/verify`, and `/v1/score`,
`/v1/rerank` and `/classify` as vLLM has them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.threaded import threaded

_LOOK_S = 0.01


@dataclass
class HashScorer:
    """The server's state: how slow it is, and how many questions it works on."""

    delay: float = 0.0
    running: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self.port}"

    def app(self) -> Starlette:
        """Return the application."""
        routes = {
            "/v1/verify": self.verify,
            "/v1/score": self.score,
            "/v1/rerank": self.rerank,
            "/classify": self.classify,
        }
        return Starlette(
            routes=[Route(path, answer, methods=["POST"]) for path, answer in routes.items()]
        )

    async def verify(self, request: Request) -> JSONResponse:
        """Score each candidate; an empty one is abstained on."""
        body = await self._work(request)
        texts = [text_of(each) for each in body["candidates"]]
        return JSONResponse({"object": "list", "data": list(map(judged, range(99), texts))})

    async def score(self, request: Request) -> JSONResponse:
        """Score each text."""
        body = await self._work(request)
        scores = enumerate(map(share, body["text_2"]))
        return JSONResponse({"data": [{"index": at, "score": score} for at, score in scores]})

    async def rerank(self, request: Request) -> JSONResponse:
        """Score each document, the best first."""
        body = await self._work(request)
        scores = enumerate(map(share, body["documents"]))
        best = sorted(scores, key=lambda each: -each[1])
        results = [{"index": at, "relevance_score": score} for at, score in best]
        return JSONResponse({"results": results})

    async def classify(self, request: Request) -> JSONResponse:
        """Give one logit."""
        body = await self._work(request)
        logit = 6 * share(json.dumps(body["messages"])) - 3
        return JSONResponse({"data": [{"index": 0, "probs": [logit], "num_classes": 1}]})

    async def _work(self, request: Request) -> Any:
        """Read the body and take the time; whoever hangs up is worked for no longer."""
        body = await request.json()
        self.running += 1
        try:
            until = time.monotonic() + self.delay
            while time.monotonic() < until and not await request.is_disconnected():
                await asyncio.sleep(_LOOK_S)
        finally:
            self.running -= 1
        return body


def text_of(candidate: Any) -> str:
    """Return a candidate's words, given bare or as a message."""
    return candidate if isinstance(candidate, str) else str(candidate.get("content") or "")


def judged(index: int, text: str) -> dict[str, Any]:
    """Return what `/v1/verify` says of a candidate."""
    score = share(text) if text else None
    return {"index": index, "score": score, "steps": [], "abstained": score is None}


def share(text: str) -> float:
    """Return a number in [0, 1) that hangs on the text alone."""
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") / 2**32


@contextmanager
def running_scorer() -> Iterator[HashScorer]:
    """Serve in a thread on a free port of 127.0.0.1."""
    scorer = HashScorer()
    with threaded(scorer.app()) as scorer.port:
        yield scorer
