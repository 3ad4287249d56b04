"""Choose again: what a strategy returns of replies that are there already, with nothing drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from strategies.base import Outcome, Parallel, run
from strategies.budget import Budget, Ledger
from strategies.events import EventLog
from strategies.request import Drawing, Request, Service
from strategies.sampler import DIVERSITY
from strategies.session import Session
from verifiers.base import Verifier
from verifiers.types import Candidate, Engine, Powers, Prompt, Sampling, Score, Task

NOTHING = 0
"""Tokens that choosing again may generate."""


class Remembered(Verifier):
    """Says again what was once said of each reply; what it does not know, it abstains on."""

    type: Literal["remembered"] = "remembered"
    scores: Mapping[str, Score]
    """By candidate id."""

    async def score(
        self,
        task: Task,  # noqa: ARG002
        candidates: Sequence[Candidate],
        powers: Powers,  # noqa: ARG002
    ) -> list[Score]:
        """Look each up."""
        silence = Score(0.0, abstained=True)
        return [self.scores.get(each.id, silence) for each in candidates]


async def choose_again(
    strategy: Parallel,
    prompt: Prompt,
    replies: Sequence[Candidate],
    scores: Mapping[str, Score],
    service: Service,
    engine: Engine,
) -> Outcome:
    """Run the strategy itself, as if it had drawn just these replies, in this order.

    It finds them in the session's stock, and the budget pays for no token beside them; `engine`
    is theirs in name only. `strategy.n` is to be the number of replies.
    """
    ledger = Ledger(Budget(max_tokens=NOTHING, max_calls=max(1, len(replies))))
    events = EventLog(lambda: ledger.seconds)
    request = Request(service, ledger, events, Remembered(scores=scores))
    sampling = Sampling(1, temperature=DIVERSITY)
    drawing = Drawing(
        engine, prompt, replace(sampling, temperature=strategy.temperature or DIVERSITY)
    )
    request.drawn.update((each.id, drawing) for each in replies)
    session = Session(request, engine, prompt, sampling, stock=replies)
    return await run(strategy, session, request)


def drawn(request: Request) -> list[dict[str, Any]]:
    """List the replies that were drawn in one go from the request's own prompt, in their order.

    Their texts and tokens are in the events; only what a parser made of a text is not.
    """
    whole = [request.produced[name] for name in request.drawn if name in request.produced]
    return [
        {"id": each.id, "message": None if each.message is None else _parsed(each)}
        for each in sorted(whole, key=lambda each: [int(place) for place in each.id.split(".")])
    ]


def _parsed(candidate: Candidate) -> dict[str, Any]:
    return {
        "content": candidate.content,
        "reasoning": candidate.reasoning,
        "tool_calls": candidate.tool_calls,
    }
