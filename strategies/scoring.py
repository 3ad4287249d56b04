"""Ask the request's verifier about what is new, within the budget."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from strategies.budget import Limit, Stage
from strategies.events import EventKind
from strategies.request import Request
from verifiers.base import Verifier
from verifiers.errors import BudgetSpent
from verifiers.types import UNSCORED, Candidate, Powers, Prompt, Score, Task

GRACE_S = 0.1
"""After the deadline, for a verifier to return what it has."""


async def score_new(
    request: Request, prompt: Prompt, candidates: Sequence[Candidate], powers: Powers
) -> list[Candidate]:
    """Return the candidates with their scores, asking only for those that have none yet.

    Siblings with the same words are one question. A verifier that compares is asked about all,
    each by itself, as soon as one is new. What the budget cannot pay, and what the verifier
    abstains on, stays unscored.
    """
    verifier = request.verifier
    assert verifier is not None, "a strategy that scores declares it in `needs`"
    unscored = [each for each in candidates if version(each) not in request.scores]
    groups: dict[tuple[str, str, bool], list[Candidate]] = defaultdict(list)
    for each in candidates if verifier.joint and unscored else unscored:
        place = each.id if verifier.joint else each.parent or each.id
        groups[place, each.text, each.done].append(each)
    asked = [same[0] for same in groups.values()]
    began = request.ledger.seconds
    scores = await _ask(request, verifier, prompt, asked, powers)
    for same, score in zip(groups.values(), scores, strict=False):
        request.scores.update((version(each), score) for each in same)
        request.events.emit(
            EventKind.SCORED,
            began=began,
            id=same[0].id,
            score=score.value,
            steps=score.steps,
            abstained=score.abstained,
        )
    return [_scored(each, request.scores.get(version(each))) for each in candidates]


async def _ask(
    request: Request, verifier: Verifier, prompt: Prompt, new: list[Candidate], powers: Powers
) -> list[Score]:
    """Score as many as can be paid, the first ones; a verifier that generates pays for itself.

    One that asks an engine returns at the deadline what it has; another one is stopped then.
    """
    if not new:
        return []
    ledger = request.ledger
    try:
        if not verifier.calls:
            new = new[: ledger.call(Stage.VERIFY, len(new))]
        left = ledger.deadline - time.monotonic()
        async with asyncio.timeout(left + GRACE_S) as limit:
            return await verifier.score(Task(prompt, request.fields, request.known), new, powers)
    except BudgetSpent:
        return []
    except TimeoutError:
        if not limit.expired():
            raise
        ledger.stopped_by = Limit.DEADLINE
        return []


def version(candidate: Candidate) -> tuple[str, str]:
    """Identify a state of a candidate: it grows, and what has grown is new."""
    return candidate.id, candidate.text


def _scored(candidate: Candidate, score: Score | None) -> Candidate:
    if score is None or score.abstained:
        return replace(candidate, score=UNSCORED)
    return replace(candidate, score=score.value, steps=score.steps)
