"""How far the server's own end has come, for those who must tell clients of it."""

from __future__ import annotations

from verifiers.errors import ForethoughtError


class ServerEnding(ForethoughtError):
    """The server ends; another replica, or the next process, answers."""

    status = 503
    code = "server_ending"

    def __init__(self, message: str = "the server is ending; try again") -> None:
        super().__init__(message)


class Draining:
    """The end of one server: it takes its last requests, and then what still runs is cut off."""

    def __init__(self) -> None:
        self.begun = False
        """Whether it is to look unready."""
        self.over = False
        """Whether the time for running requests is over: they are cancelled."""
