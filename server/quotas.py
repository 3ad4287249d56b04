"""What a key may use, charged before a request's work and corrected after it, by whatever end.

At admission a request is charged the most that it could generate within its budget, afterwards
what its ledger says. So requests that run at the same time cannot overrun a quota together, and
what they did not need is free again when they end. All counting is the store's: replicas share it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from server.convert import Order, width_field
from server.identity import Identity, Quota
from server.keys.errors import Forbidden, QuotaExceeded
from server.rate_limits import Window, windows
from server.state import State
from server.store.base import StoreUnavailable
from server.store.limits import Charge, Limits, Verdict
from server.verification import Verification
from strategies.base import WorstCase

Paid: TypeAlias = Order | Verification

_log = logging.getLogger("forethought.quotas")


class _Hold(NamedTuple):
    """So many samples of a key at once, in the name of one request."""

    name: str
    holder: str
    amount: int
    limit: int
    lease_s: float

    async def take(self, limits: Limits) -> bool:
        """Hold them, or go on holding them; say whether they fit."""
        return await limits.hold(*self)


@asynccontextmanager
async def spending(order: Paid, identity: Identity, state: State) -> AsyncIterator[None]:
    """Let the key pay for the work that is done in this context.

    Raises:
        Forbidden: the request asks for more than this key ever may.
        QuotaExceeded: the key has used what it may use for now.
        StoreUnavailable: nobody can tell: a key with quotas needs the store.
    """
    quota = identity.quota
    if quota == Quota():
        yield
        return
    worst = _worst_case(order)
    _check(order, worst, quota)
    try:
        async with (
            _holding(_hold(order, identity, state), state.store.limits),
            _charged(order, worst, windows(identity), state.store.limits),
        ):
            yield
    except QuotaExceeded as error:
        state.metrics.quota_refused(error.limit)
        raise


def _worst_case(order: Paid) -> WorstCase:
    """Return the most samples that a request draws, and the most tokens that it generates."""
    budget = order.request.ledger.budget
    if isinstance(order, Order):
        return order.strategy.worst_case(
            order.n, order.sampling.max_tokens, order.judge.verifier, budget
        )
    assert order.judge.verifier is not None, "a verification has a verifier"
    replies = sum(len(question.candidates) for question in order.questions)
    return WorstCase(0, min(replies * order.judge.verifier.max_tokens, budget.max_tokens))


def _check(order: Paid, worst: WorstCase, quota: Quota) -> None:
    """Refuse what this key may never have. Raises Forbidden."""
    most, budget = quota.budget_tokens, order.request.ledger.budget
    if most is not None and budget.max_tokens > most:
        raise Forbidden(f"this key allows at most {most}", param="budget.max_tokens")
    if not isinstance(order, Order):
        return
    field = width_field(order.strategy)
    if quota.max_samples is not None and worst.samples > quota.max_samples:
        raise Forbidden(
            f"this key allows at most {quota.max_samples} samples for a request", param=field
        )
    if quota.samples_at_once is not None and _at_once(order) > quota.samples_at_once:
        raise Forbidden(
            f"this key allows at most {quota.samples_at_once} samples at once", param=field
        )


def _at_once(order: Order) -> int:
    return min(order.strategy.at_once(order.n), order.request.ledger.budget.max_calls)


def _hold(order: Paid, identity: Identity, state: State) -> _Hold | None:
    limit = identity.quota.samples_at_once
    if limit is None or not isinstance(order, Order):
        return None
    holder, lease_s = secrets.token_hex(8), state.settings.keys.lease_s
    return _Hold(f"key:{identity.owner}:samples", holder, _at_once(order), limit, lease_s)


@asynccontextmanager
async def _holding(hold: _Hold | None, limits: Limits) -> AsyncIterator[None]:
    """Hold samples while the context lasts; if this process dies, its lease ends with it."""
    if hold is None:
        yield
        return
    if not await hold.take(limits):
        raise QuotaExceeded(
            f"this key allows {hold.limit} samples at once: others are running",
            limit="samples_at_once",
        )
    renewing = asyncio.create_task(_renew(hold, limits))
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.wait([renewing])
        try:
            await limits.release(hold.name, hold.holder)
        except StoreUnavailable as error:
            _log.warning("samples stay held for %.0f s: %s", hold.lease_s, error.message)


async def _renew(hold: _Hold, limits: Limits) -> None:
    """Prolong the lease; while the store is away the work goes on, as it was granted."""
    while True:
        await asyncio.sleep(hold.lease_s / 3)
        try:
            await hold.take(limits)
        except StoreUnavailable as error:
            _log.warning("held samples are not renewed: %s", error.message)


@asynccontextmanager
async def _charged(
    order: Paid, worst: WorstCase, known: Sequence[Window], limits: Limits
) -> AsyncIterator[None]:
    """Charge the worst case, and in the end what was spent."""
    if not known:
        yield
        return
    tokens = worst.tokens + (order.prompt_tokens if isinstance(order, Order) else 0)
    charges = [
        window.charge(1 if window.what == "requests" else min(tokens, window.limit))
        for window in known
    ]
    charged_at = time.monotonic()
    verdict = await limits.charge(charges)
    if not verdict.granted:
        raise _exceeded(known, charges, verdict)
    try:
        yield
    finally:
        elapsed = time.monotonic() - charged_at
        try:
            await limits.correct(corrections(order, known, charges, verdict, elapsed))
        except StoreUnavailable as error:
            _log.warning("a request stays charged at its worst case: %s", error.message)


def corrections(
    order: Paid,
    known: Sequence[Window],
    charges: Sequence[Charge],
    verdict: Verdict,
    elapsed: float,
) -> list[Charge]:
    """Say what to add or to give back; nothing is given back to a window that has ended since.

    The one that follows it would take it for its own, and grant more than its limit.
    """
    spent = _spent(order)
    changes = []
    for window, charge, level in zip(known, charges, verdict.levels, strict=True):
        change = spent - charge.amount if window.what == "tokens" else 0
        if change > 0 or (change < 0 and elapsed < level.reset_s):
            changes.append(replace(charge, amount=change))
    return changes


def _spent(order: Paid) -> int:
    """Return what the answer tells as `usage.total_tokens`, or would have."""
    total = order.request.ledger.total
    if isinstance(order, Order):  # the engine's own count comes with a first reply's end
        return max(order.request.prompt_tokens, order.prompt_tokens) + total.completion_tokens
    return total.prompt_tokens + total.completion_tokens


def _exceeded(
    known: Sequence[Window], charges: Sequence[Charge], verdict: Verdict
) -> QuotaExceeded:
    assert verdict.refused is not None, "it was not granted"
    window, charge = known[verdict.refused], charges[verdict.refused]
    level = verdict.levels[verdict.refused]
    wait = max(1, math.ceil(level.reset_s))
    return QuotaExceeded(
        f"this key allows {window.words}: {level.remaining} are left, this request may need "
        f"{charge.amount}; try again in {wait} s",
        limit=window.name,
        retry_after=wait,
    )
