"""A sequence-classification head behind vLLM's pooling server: /classify, /pooling or /score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Len, MinLen
from pydantic import BaseModel, FiniteFloat

from verifiers.concurrency import together
from verifiers.http_scorer import Refused, ScoringServer
from verifiers.sequence_classifier import Conversation, Logits
from verifiers.turns import transcript
from verifiers.types import Prompt

PoolingPath: TypeAlias = Literal["/classify", "/pooling", "/score"]


class HTTPClassifier:
    """Asks once per reply, for logits without activation: the server makes the batches.

    `/classify` and `/pooling` get the messages, and the server's own chat template makes text of
    them; `/score` gets the conversation as one text and the reply as the other.
    """

    def __init__(
        self, server: ScoringServer, url: str, path: PoolingPath, model: str | None
    ) -> None:
        self._server = server
        self._url = url.rstrip("/") + path
        self._path = path
        self._model = model

    async def logits(self, conversations: Sequence[Conversation]) -> list[Logits | None]:
        """Ask about all at the same time."""
        return await together(self._one(each) for each in conversations)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._server.aclose()

    async def _one(self, conversation: Conversation) -> Logits | None:
        body: dict[str, Any] = {"use_activation": False}
        if self._model is not None:
            body["model"] = self._model
        try:
            return await self._ask(conversation, body)
        except Refused:
            return None

    async def _ask(self, conversation: Conversation, body: dict[str, Any]) -> Logits:
        match self._path:
            case "/classify":
                body["messages"] = conversation
                classified = await self._server.ask(self._url, body, _Classified)
                return classified.data[0].probs
            case "/pooling":
                body |= {"messages": conversation, "task": "classify"}
                pooled = await self._server.ask(self._url, body, _Pooled)
                return pooled.data[0].data
            case "/score":
                body["text_1"] = transcript(Prompt(conversation[:-1]))
                body["text_2"] = conversation[-1]["content"]
                scored = await self._server.ask(self._url, body, _Scored)
                return (scored.data[0].score,)


_Head: TypeAlias = Annotated[tuple[FiniteFloat, ...], MinLen(1)]


class _Class(BaseModel):
    probs: _Head


class _Classified(BaseModel):
    """What is read of an answer of `/classify`."""

    data: Annotated[list[_Class], Len(1, 1)]


class _Pool(BaseModel):
    data: _Head


class _Pooled(BaseModel):
    """What is read of an answer of `/pooling`."""

    data: Annotated[list[_Pool], Len(1, 1)]


class _Pair(BaseModel):
    score: FiniteFloat


class _Scored(BaseModel):
    """What is read of an answer of `/score`."""

    data: Annotated[list[_Pair], Len(1, 1)]
