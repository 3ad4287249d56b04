"""Every error that Forethought raises, named for the boundary that was crossed.

    ForethoughtError                 status  type                    the boundary
    ├── BadRequest                   400     invalid_request_error   what the client sent
    │   ├── UnknownModel             404     invalid_request_error
    │   ├── UnknownStrategy          404     invalid_request_error   (named in the path)
    │   ├── BodyTooLarge             413     invalid_request_error
    │   └── WrongContentType         415     invalid_request_error
    ├── Overloaded                   429     rate_limit_error        the admission queue
    ├── EngineError                  502     upstream_error          the engine answered badly
    │   ├── EngineUnavailable        503     upstream_error          the engine does not answer
    │   └── EngineTimeout            504     timeout_error           the engine answers too late
    ├── VerifierError                502     upstream_error          what a verifier asks fails
    │   └── VerifierUnavailable      503     upstream_error          it is away, the rest works
    ├── DeadlinePassed               504     timeout_error           the request's own deadline
    └── BudgetSpent                  (never leaves `strategies.base.run`)

`server/errors.py` turns them into OpenAI error objects, once. Nothing else maps errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ForethoughtError(Exception):
    """The root: what a client may be told, in one sentence."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class BadRequest(ForethoughtError, ValueError):
    """The request cannot be served as it was sent; `param` is the dotted path of the field."""

    status = 400
    type = "invalid_request_error"


class UnknownModel(BadRequest, LookupError):
    """No engine, adapter or preset has that name."""

    status = 404
    code = "model_not_found"


class UnknownStrategy(BadRequest, LookupError):
    """The path names a strategy that does not exist."""

    status = 404
    code = "strategy_not_found"


class BodyTooLarge(BadRequest):
    """The request body is over the server's limit."""

    status = 413


class WrongContentType(BadRequest):
    """The request body is not declared as JSON."""

    status = 415


class Overloaded(ForethoughtError):
    """The queue is full; try again after `retry_after` seconds. No work was done."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineError(ForethoughtError):
    """The engine failed, or sent something that is not an answer."""

    status = 502
    type = "upstream_error"
    code = "engine_error"


class EngineUnavailable(EngineError, ConnectionError):
    """The engine cannot be reached or has stopped."""

    status = 503
    code = "engine_unavailable"


class EngineTimeout(EngineError, TimeoutError):
    """The engine did not answer within its own time-out."""

    status = 504
    type = "timeout_error"
    code = "engine_timeout"


class VerifierError(ForethoughtError):
    """What a verifier needs beside engines failed, or sent something that is no score."""

    status = 502
    type = "upstream_error"
    code = "verifier_error"


class VerifierUnavailable(VerifierError, ConnectionError):
    """It is away now; requests that do not need it are served."""

    status = 503
    code = "verifier_unavailable"


@contextmanager
def told_as_unavailable() -> Iterator[None]:
    """Turn every VerifierError of a trial into VerifierUnavailable: what `check` tells."""
    try:
        yield
    except VerifierUnavailable:
        raise
    except VerifierError as error:
        raise VerifierUnavailable(error.message) from error


class DeadlinePassed(ForethoughtError, TimeoutError):
    """The request's deadline passed before any answer existed."""

    status = 504
    type = "timeout_error"
    code = "deadline"


class BudgetSpent(ForethoughtError):
    """A call could pay for nothing; `limit` says which limit was reached."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"the budget is spent: {limit}")
        self.limit = limit
