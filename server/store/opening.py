"""Where the store is, and how a server keeps it open: checked at first, swept from time to time."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from server.store.base import Store, StoreUnavailable, open_store

MEMORY = "sqlite::memory:"
"""The address of a store that ends with the process."""
SWEEP_S = 60.0
"""Between two looks for what has expired."""

_log = logging.getLogger("forethought.store")


def default_url() -> str:
    """Name the file that is used where no store is set: `forethought/store.sqlite`, for the state.

    It is in `$XDG_STATE_HOME`, else `~/.local/state`.
    """
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return f"sqlite:{Path(base).expanduser() / 'forethought' / 'store.sqlite'}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """Open a store, sweep it while the block lasts, and close it.

    Raises:
        StoreError: it cannot be opened.
    """
    async with aclosing(await open_store(url)) as store:
        try:
            await store.check()
        except StoreUnavailable as error:
            _log.warning("%s; it is used when it does", error.message)
        sweeping = asyncio.create_task(_sweep(store))
        try:
            yield store
        finally:
            sweeping.cancel()
            await asyncio.wait([sweeping])


async def _sweep(store: Store) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await store.sweep()
        except StoreUnavailable as error:
            _log.warning("what has expired is not deleted: %s", error.message)
