"""The model store: from a name to a directory that an engine can load."""

from server.models.errors import ModelError
from server.models.progress import LoggedProgress, Progress, SilentProgress, TerminalProgress
from server.models.store import ModelDirectory, resolve

__all__ = [
    "LoggedProgress",
    "ModelDirectory",
    "ModelError",
    "Progress",
    "SilentProgress",
    "TerminalProgress",
    "resolve",
]
