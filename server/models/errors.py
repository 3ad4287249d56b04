"""The one error of the model store."""

from __future__ import annotations


class ModelError(Exception):
    """A model cannot be had; the message says why and what to do, for people."""
