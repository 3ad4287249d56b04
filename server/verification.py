"""Orders to judge replies that a client brings: the account is the request's own, as in a chat."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from server.identity import ANYONE, Identity
from server.resolve import Judge, Target, choose_budget
from server.state import State
from server.wire import BudgetFields
from server.wire_verify import GivenReply
from strategies.budget import Ledger
from strategies.events import EventLog
from strategies.request import Request
from strategies.session import Session
from verifiers.errors import BadRequest
from verifiers.types import Candidate, Message, Prompt, Sampling


class Question(NamedTuple):
    """Replies to one prompt: a verifier may compare them."""

    prompt: Prompt
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """One request to judge, understood."""

    id: str
    """Of the response and of the trace."""
    created: int
    """Unix time."""
    kind: str
    """The endpoint, as metrics and traces name it."""
    model: str
    judge: Judge
    request: Request
    questions: tuple[Question, ...]
    sessions: tuple[Session, ...]
    """One for each question."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the body says of how to judge."""

    budget: BudgetFields | None
    seed: int | None
    received: float
    """Of `time.monotonic()`."""
    identity: Identity = ANYONE


def take_verification(
    kind: str,
    state: State,
    target: Target,
    judge: Judge,
    questions: Sequence[Question],
    terms: Terms,
) -> Verification:
    """Open the account and a session for each question.

    Raises:
        BadRequest: the budget is over a cap, or the verifier cannot judge by a prompt.
    """
    for question in questions:
        judge.admit(question.prompt)
    identity = terms.identity
    budget = choose_budget(state, target.preset, terms.budget, quota=identity.quota)
    ledger = Ledger(budget, received=terms.received)
    events = EventLog(lambda: ledger.seconds)
    request = Request(
        state.service,
        ledger,
        events,
        judge.verifier,
        judge.fields,
        cache_salt=identity.cache_salt,
    )
    sampling = Sampling(state.settings.default_max_completion_tokens, seed=terms.seed)
    return Verification(
        f"{kind}-{secrets.token_hex(12)}",
        int(time.time()),
        kind,
        target.name,
        judge,
        request,
        tuple(questions),
        tuple(
            Session(request, target.engine, question.prompt, sampling, path=str(place))
            for place, question in enumerate(questions)
        ),
    )


def check_count(state: State, count: int, param: str) -> None:
    """Refuse more replies than a chat may draw at once. Raises BadRequest."""
    if count > (most := state.settings.limits.max_samples):
        raise BadRequest(f"this server judges at most {most} replies at once", param=param)


def given_candidate(given: GivenReply, name: str, place: str) -> Candidate:
    """Make a candidate of a reply that stands at `place` of the body. Raises BadRequest."""
    content, reasoning = given.get("content") or "", given.get("reasoning") or ""
    calls = tuple(given.get("tool_calls") or ())
    if given.get("content") is None and not calls:
        raise BadRequest("a reply has content or tool calls", param=f"{place}.content")
    return Candidate(
        name,
        text=content,
        message=Message(content, reasoning, calls) if reasoning or calls else None,
        finish_reason=given.get("finish_reason", "tool_calls" if calls else "stop"),
    )
