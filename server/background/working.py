"""The endpoints whose requests are worked on in the background."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.background.chat import ChatForm
from server.background.worker import Worker
from server.responses.background import ResponseForm
from server.state import State


@asynccontextmanager
async def working(state: State) -> AsyncIterator[None]:
    """Work on background requests of all endpoints while the block lasts."""
    forms = (ChatForm(), ResponseForm())
    async with Worker(state, {form.kind: form for form in forms}).working():
        yield
