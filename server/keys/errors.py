"""What is answered where a key is missing, wrong, or not enough."""

from __future__ import annotations

from verifiers.errors import ForethoughtError, Overloaded


class Unauthenticated(ForethoughtError):
    """No key was given, or none that is known and alive."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(ForethoughtError):
    """The key is good, and not for this; `param` names the field that asks for too much."""

    status = 403
    type = "invalid_request_error"
    code = "insufficient_permissions"


class QuotaExceeded(Overloaded):
    """The key has used what it may use for now. No work was done."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, limit: str = "", retry_after: int = 1) -> None:
        super().__init__(message, retry_after=retry_after)
        self.limit = limit
        """Which one, as in `tokens_per_day`."""
