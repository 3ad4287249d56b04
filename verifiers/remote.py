"""A scorer somewhere else, asked over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import BaseModel, Field, FiniteFloat, PrivateAttr, SecretStr

from verifiers.base import Verifier
from verifiers.concurrency import together
from verifiers.errors import VerifierError, VerifierUnavailable, told_as_unavailable
from verifiers.http_scorer import ScoringServer
from verifiers.turns import spoken, transcript
from verifiers.types import Candidate, Powers, Prompt, Score, Task

_PROBE = Task(Prompt(({"role": "user", "content": "Hi"},))), Candidate("", "Hello!")
"""What is scored to find out whether it answers."""


class Remote(Verifier):
    """Take another server's word: this configuration names it, a request never does.

    Three shapes: `verify` is our own (`POST /v1/verify` of another Forethought), `score` and
    `rerank` those of vLLM, Jina and Cohere, where the conversation is the query and each reply a
    document. What the answer gives is the score, as it is: calibrate where probabilities matter.
    """

    type: Literal["remote"] = "remote"

    url: str = Field(pattern="^https?://", description="Of the route, such as …/v1/verify.")
    shape: Literal["verify", "score", "rerank"] = Field("verify", description="Of the question.")
    verifier: str | None = Field(None, description="verify: its name there. Default: theirs.")
    model: str | None = Field(None, description="Its name there. Default: theirs.")
    api_key: SecretStr | None = Field(None, description="Sent as a bearer.")
    timeout_s: float = Field(30.0, gt=0, description="For each question, retries included.")
    retries: int = Field(2, ge=0, le=10, description="Of connections that fail or break.")
    batch_size: int = Field(32, ge=1, description="Most replies of one question.")
    answer_bytes: int = Field(1 << 20, ge=1024, description="Longest answer that is read.")

    _server: ScoringServer | None = PrivateAttr(None)

    async def start(self) -> None:
        """Get ready to ask; whether it answers is `check`'s to say."""
        self._server = ScoringServer(
            api_key=self.api_key,
            timeout_s=self.timeout_s,
            retries=self.retries,
            answer_bytes=self.answer_bytes,
        )

    async def check(self) -> None:
        """Score a word. Raises VerifierUnavailable."""
        task, candidate = _PROBE
        with told_as_unavailable():
            await self._ask(task, [candidate])

    async def aclose(self) -> None:
        """Close all connections."""
        server, self._server = self._server, None
        if server is not None:
            await server.aclose()

    async def score(
        self,
        task: Task,
        candidates: Sequence[Candidate],
        powers: Powers,  # noqa: ARG002
    ) -> list[Score]:
        """Ask in batches, all at the same time."""
        size = self.batch_size
        batches = [candidates[start : start + size] for start in range(0, len(candidates), size)]
        scored = await together(self._ask(task, batch) for batch in batches)
        return [score for batch in scored for score in batch]

    async def _ask(self, task: Task, candidates: Sequence[Candidate]) -> list[Score]:
        if self._server is None:
            raise VerifierUnavailable("the verifier is not started")
        body: dict[str, Any] = {} if self.model is None else {"model": self.model}
        match self.shape:
            case "verify":
                verified = await self._server.ask(
                    self.url, body | self._verify(task, candidates), _Verified
                )
                items: Sequence[_Item] = verified.data
            case "score":
                texts = [spoken(each) for each in candidates]
                body |= {"text_1": transcript(task.prompt), "text_2": texts}
                items = (await self._server.ask(self.url, body, _Scored)).data
            case "rerank":
                texts = [spoken(each) for each in candidates]
                body |= {"query": transcript(task.prompt), "documents": texts}
                items = (await self._server.ask(self.url, body, _Reranked)).results
        return _in_order(items, len(candidates))

    def _verify(self, task: Task, candidates: Sequence[Candidate]) -> dict[str, Any]:
        told = [
            {"content": each.content, "finish_reason": each.finish_reason}
            | ({"tool_calls": each.tool_calls} if each.tool_calls else {})
            for each in candidates
        ]
        named = {} if self.verifier is None else {"verifier": self.verifier}
        return {"messages": task.prompt.messages, "candidates": told, **named}


class _Item(BaseModel):
    index: Annotated[int, Ge(0)]

    def told(self) -> Score:
        """Return what the item says."""
        raise NotImplementedError


class _VerifiedItem(_Item):
    score: FiniteFloat | None
    steps: tuple[FiniteFloat, ...] | None = None
    abstained: bool = False

    def told(self) -> Score:
        if self.score is None or self.abstained:
            return Score(0.0, abstained=True)
        return Score(self.score, self.steps or ())


class _ScoredItem(_Item):
    score: FiniteFloat

    def told(self) -> Score:
        return Score(self.score)


class _RerankedItem(_Item):
    relevance_score: FiniteFloat

    def told(self) -> Score:
        return Score(self.relevance_score)


class _Verified(BaseModel):
    """What is read of an answer in our own shape."""

    data: list[_VerifiedItem]


class _Scored(BaseModel):
    """What is read of an answer of `/v1/score`."""

    data: list[_ScoredItem]


class _Reranked(BaseModel):
    """What is read of an answer of `/v1/rerank`, where the best comes first."""

    results: list[_RerankedItem]


def _in_order(items: Sequence[_Item], count: int) -> list[Score]:
    """Return the scores in the order of the question. Raises VerifierError: not one each."""
    by_index = {item.index: item.told() for item in items}
    if len(items) != count or by_index.keys() != set(range(count)):
        raise VerifierError(f"the scoring server gave {len(items)} scores for {count} replies")
    return [by_index[index] for index in range(count)]
