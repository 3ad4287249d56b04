"""A client that hangs up stops the work: cancelling its task cancels everything below."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

Result = TypeVar("Result")


class ClientGone(Exception):
    """The client has hung up; the work was cancelled and nobody reads an answer."""


async def while_connected(work: Coroutine[Any, Any, Result], receive: Receive) -> Result:
    """Do the work, or cancel it and wait for its end when the client hangs up.

    The request's body must have been read. Raises ClientGone, or what the work raises.
    """
    doing = asyncio.create_task(work)
    hanging_up = asyncio.create_task(_hang_up(receive))
    try:
        await asyncio.wait((doing, hanging_up), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientGone
    finally:
        doing.cancel()
        hanging_up.cancel()
        await asyncio.wait((doing, hanging_up))


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
