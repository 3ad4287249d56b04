"""What the sessions of one request share, and what all requests of a server share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from strategies.admission import Admission, Ticket
from strategies.allocation import Table, shipped_tables
from strategies.budget import Ledger
from strategies.events import EventLog
from verifiers.base import Verifier
from verifiers.types import Candidate, Engine, Equivalence, JSONObject, Prompt, Sampling, Score
from verifiers.votes import Votes


class Drawing(NamedTuple):
    """What a whole reply was drawn from; equal ones give replies that are as good as each other."""

    engine: Engine
    prompt: Prompt
    sampling: Sampling
    """Without its seed."""


@dataclass(frozen=True, slots=True)
class Service:
    """What all requests of a server share."""

    engines: Mapping[str, Engine]
    equivalence: Equivalence
    admission: Admission
    tables: Mapping[str, Table] = field(default_factory=shipped_tables)
    """What `compute_optimal` spends by."""


@dataclass(eq=False, slots=True)
class Request:
    """What all sessions of one request share: one account, one place in the queue, one record."""

    service: Service
    ledger: Ledger
    events: EventLog
    verifier: Verifier | None = None
    fields: JSONObject = field(default_factory=dict)
    """What the request gave the verifier."""
    cache_salt: str | None = None
    """Put into every prompt that an engine is asked."""
    ticket: Ticket = field(default_factory=Ticket)
    scores: dict[tuple[str, str], Score] = field(default_factory=dict)
    """Scores by candidate id and text, so that only what is new is scored."""
    known: dict[Hashable, float] = field(default_factory=dict)
    """What the verifier keeps for itself, such as the scores of steps."""
    produced: dict[str, Candidate] = field(default_factory=dict)
    """The latest state of every candidate that answers the request's own prompt."""
    drawn: dict[str, Drawing] = field(default_factory=dict)
    """How those of them that were drawn in one go, from the prompt on, were drawn."""
    votes: Votes | None = None
    """The last vote over answers to the request's own prompt."""
    prompt_tokens: int = 0
    """Length of the request's own prompt, once the engine has told."""
    concluded: bool = False


class Remaining(NamedTuple):
    """What can still be spent."""

    tokens: int
    calls: int
    seconds: float
