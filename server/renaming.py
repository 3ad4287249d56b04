"""Errors of the chat line, told by the names that another endpoint has for the fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from verifiers.errors import ForethoughtError


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors name the field that the client sent; what is within a renamed one is left out."""
    try:
        yield
    except ForethoughtError as error:
        param = error.param or ""
        error.param = names.get(param, names.get(param.partition(".")[0], error.param))
        raise
