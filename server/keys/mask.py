"""Logs without keys: a client may put its key anywhere, such as into a path or a request's id."""

from __future__ import annotations

import logging

from server.keys.key import masked


class KeylessHandler(logging.StreamHandler):  # type: ignore[type-arg]  # it is not generic at run time
    """Writes lines without the secrets of keys, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record down."""
        return masked(super().format(record))
