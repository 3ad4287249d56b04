"""A scripted judge, and a verifier that is away, for tests of the endpoints that judge."""

import re
from collections.abc import Sequence
from typing import Any, Literal

import httpx

from server.engines.scripts import arithmetic
from tests.server.local import Local, error_of
from verifiers.base import Verifier
from verifiers.errors import VerifierUnavailable
from verifiers.types import Candidate, Message, Powers, Prompt, Sampling, Score, Task


def judge(prompt: Prompt, sampling: Sampling, index: int) -> str | Message:
    """Grade a reply by what it says that it is worth; answer anything else with sums."""
    worth = re.search(r"worth (\d)", str(prompt.messages[-1]["content"]))
    return worth[1] if worth else arithmetic(prompt, sampling, index)


class Away(Verifier):
    """Cannot be reached."""

    type: Literal["away"] = "away"

    async def check(self) -> None:
        raise VerifierUnavailable("the scorer does not answer")

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        raise VerifierUnavailable("the scorer does not answer")


def post(server: Local, path: str, **body: Any) -> httpx.Response:
    """Send a body as it is."""
    return server.http.post(path, json=body)


def refused(server: Local, path: str, status: int = 400, **body: Any) -> Any:
    """Send what must be refused before any work; return the error object."""
    before = server.engine.log.copy()
    response = post(server, path, **body)
    assert response.status_code == status, response.text
    assert server.engine.log == before
    return error_of(response)
