"""Ask the request's verifier about what is new, within the budget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from strategies.budget import Stage
from strategies.events import EventKind
from strategies.request import Request
from verifiers.errors import BudgetSpent
from verifiers.types import UNSCORED, Candidate, Powers, Prompt, Score, Task


async def score_new(
    request: Request, prompt: Prompt, candidates: Sequence[Candidate], powers: Powers
) -> list[Candidate]:
    """Return the candidates with their scores, asking only for those that have none yet.

    Siblings with the same words are one question. What the budget cannot pay, and what the
    verifier abstains on, stays unscored.
    """
    unseen: dict[tuple[str, str, bool], list[Candidate]] = defaultdict(list)
    for each in candidates:
        if _version(each) not in request.scores:
            unseen[each.parent or each.id, each.text, each.done].append(each)
    new = [same[0] for same in unseen.values()]
    scores = await _ask(request, prompt, new, powers)
    for same, score in zip(unseen.values(), scores, strict=False):
        request.scores.update((_version(each), score) for each in same)
        request.events.emit(
            EventKind.SCORED,
            id=same[0].id,
            score=score.value,
            steps=score.steps,
            abstained=score.abstained,
        )
    return [_scored(each, request.scores.get(_version(each))) for each in candidates]


async def _ask(
    request: Request, prompt: Prompt, new: list[Candidate], powers: Powers
) -> list[Score]:
    """Score as many as can be paid, the first ones; a verifier that generates pays for itself."""
    verifier = request.verifier
    assert verifier is not None, "a strategy that scores declares it in `needs`"
    if not new:
        return []
    try:
        if not verifier.calls:
            new = new[: request.ledger.call(Stage.VERIFY, len(new))]
        return await verifier.score(Task(prompt, request.fields), new, powers)
    except BudgetSpent:
        return []


def _version(candidate: Candidate) -> tuple[str, str]:
    """Identify a state of a candidate: it grows, and what has grown is new."""
    return candidate.id, candidate.text


def _scored(candidate: Candidate, score: Score | None) -> Candidate:
    if score is None or score.abstained:
        return replace(candidate, score=UNSCORED)
    return replace(candidate, score=score.value, steps=score.steps)
