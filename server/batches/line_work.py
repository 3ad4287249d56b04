"""The work on one line of a batch: it is answered as a request is, and told as one."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import replace

from pydantic_core import from_json, to_json

from server.batches.endpoints import answer_line
from server.batches.share import Share
from server.crew import Again, Done, Terms, Verdict
from server.errors import error_object, error_status, log_error
from server.keys.ring import identity_of_owner
from server.state import State
from server.store.base import StoreUnavailable
from server.store.jobs import Claim
from verifiers.errors import ForethoughtError, Overloaded
from verifiers.types import JSONObject

OK = 200
_TOO_MANY = 429
_FAULT = 500

_log = logging.getLogger("forethought.batches")


class LineWork:
    """Answers lines with the server's engines, in the share of slots that batches have."""

    def __init__(self, state: State, terms: Terms) -> None:
        self._terms = terms
        alone = state.settings.role == "worker"
        share = 1.0 if alone else state.settings.batches.share
        self._share = Share(state.service.admission, share)
        self._state = replace(state, service=replace(state.service, admission=self._share))

    def room(self, held: int) -> int:
        """Say how many lines more fit: half of what is free, as one may take several slots."""
        if self._state.draining.begun:
            return 0
        free = self._share.slots - max(held, self._share.running + self._share.queued)
        return (free + 1) // 2

    async def __call__(self, claim: Claim) -> Verdict:
        """Answer a line; what is wrong with it is a result too, what is wrong with us is not."""
        request_id, started = f"batch_req_{secrets.token_hex(12)}", time.monotonic()
        line = claim.job.body
        try:
            with self._state.in_flight.request():
                identity = await identity_of_owner(line["owner"], self._state)
                body = await answer_line(line["url"], line["body"], self._state, identity)
        except StoreUnavailable:
            raise  # the crew waits for the store
        except ForethoughtError as error:
            self._state.metrics.error(type(error).__name__)
            log_error(error, request_id)
            return await self._failed(claim, request_id, error)
        seconds = time.monotonic() - started
        _log.info("%s of %s: %d %.3f s", request_id, claim.group, OK, seconds)
        return Done(_response(request_id, OK, body))

    async def _failed(self, claim: Claim, request_id: str, error: ForethoughtError) -> Verdict:
        status = error_status(error)
        pause = self._terms.pause(claim.attempt)
        if status == _TOO_MANY:  # no work was done: that is no attempt
            told = error.retry_after if isinstance(error, Overloaded) else 0
            return Again(max(pause, told))
        if status >= _FAULT:
            return Again(pause, error.message)
        await note_failed(self._state, claim)
        return Done(_response(request_id, status, error_object(error)))


async def note_failed(state: State, claim: Claim) -> None:
    """Count a line that ends with an error, for whoever asks how the batch goes on."""
    keep_s = state.settings.files.keep_s
    await state.store.streams.append(failed_of(claim.group), [{}], expires_s=keep_s)


def failed_of(batch_id: str) -> str:
    """Name the stream that has one event for each line that was answered with an error."""
    return f"failed:{batch_id}"


def _response(request_id: str, status: int, body: JSONObject) -> JSONObject:
    plain = from_json(to_json(body, inf_nan_mode="null"))
    return {"status_code": status, "request_id": request_id, "body": plain}
