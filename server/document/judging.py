"""Verification, reranking, scoring and replay."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.document.base import Answer, Costs, GivenCandidate


class CachedDetails(Answer):
    """Of the tokens read."""

    cached_tokens: int
    """Those that were in the prefix cache."""


class JudgingUsage(Answer):
    """Tokens."""

    prompt_tokens: int
    """All that the verifier has read."""
    completion_tokens: int
    """All that it has generated."""
    total_tokens: int
    """Both together."""
    prompt_tokens_details: CachedDetails
    """Of those read."""


class JudgedCandidate(GivenCandidate):
    """A reply as it was judged."""

    answer: str | None
    """What was found in it, in its canonical form."""


class JudgedReply(Answer):
    """What the verifier says of one reply."""

    index: int
    """Its place in the request."""
    score: float | None
    """Higher is better; null: the verifier abstained, or the budget did not pay for it."""
    confidence: float | None
    """How probably it is right, where the verifier is calibrated."""
    steps: list[float]
    """The score after each step."""
    abstained: bool
    """Whether there is no score."""
    rank: int | None
    """1 is the best; equal scores have the same."""
    candidate: JudgedCandidate | None = Field(default=None)
    """The reply, where `include` asked for it."""


class VerificationAnswer(Answer):
    """What a verifier says of replies."""

    id: str
    """Of the answer and its trace."""
    object: Literal["verification"]
    """What this is."""
    created: int
    """Unix time."""
    model: str
    """The model that verifiers ask."""
    verifier: str
    """The verifier that judged."""
    data: list[JudgedReply]
    """One entry for each reply, in their order."""
    usage: JudgingUsage
    """What was read and generated."""
    scaling: Costs
    """What ended it and what each stage cost."""


class Document(Answer):
    """A document."""

    text: str
    """Its text."""


class RankedDocument(Answer):
    """A document's place."""

    index: int
    """Its place in the request."""
    document: Document | None = Field(default=None)
    """The document, unless `return_documents` is false."""
    relevance_score: float
    """Higher is better."""
    abstained: bool = Field(default=False)
    """Whether the verifier gave no score: then it stands last."""


class RerankAnswer(Answer):
    """Documents, the best first."""

    id: str
    """Of the answer and its trace."""
    model: str
    """As the request names it."""
    usage: JudgingUsage
    """What was read and generated."""
    results: list[RankedDocument]
    """The documents, the best first."""
    scaling: Costs
    """What judged, what ended it and what it cost."""


class ScoredPair(Answer):
    """A pair's score."""

    index: int
    """Its place in the request."""
    object: Literal["score"]
    """What this is."""
    score: float
    """Higher is better."""
    abstained: bool = Field(default=False)
    """Whether the verifier gave no score."""


class ScoreAnswer(Answer):
    """Scores of pairs of texts."""

    id: str
    """Of the answer and its trace."""
    object: Literal["list"]
    """What this is."""
    created: int
    """Unix time."""
    model: str
    """As the request names it."""
    data: list[ScoredPair]
    """One entry for each pair, in their order."""
    usage: JudgingUsage
    """What was read and generated."""
    scaling: Costs
    """What judged, what ended it and what it cost."""


class Selection(Answer):
    """What one way of choosing makes of the first k replies."""

    selection: str
    """The way, such as `majority`."""
    strategy: str | None
    """The strategy that chooses so; null: none does."""
    k: int
    """How many replies it had."""
    index: int | None
    """The place of the reply that it chose."""
    id: str | None
    """The id of the reply that it chose."""
    answer: str | None
    """What was found in it."""
    agreement: float | None
    """The share of votes that the answer has."""
    abstentions: int
    """Replies in which no answer was found."""
    correct: float | None
    """How likely the choice is right, where that is known."""
    tokens: int
    """Of the k replies."""


class ReplayAnswer(Answer):
    """What each way of choosing would have returned."""

    id: str
    """Of this answer."""
    object: Literal["replay"]
    """What this is."""
    trace: str | None
    """The stored trace that was chosen from."""
    candidates: int
    """How many replies there are."""
    data: list[Selection]
    """One entry for each way and number of replies."""
    seconds: float
    """What it took."""
