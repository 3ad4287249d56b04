"""Servers that ask for keys, and keys that open them."""

import asyncio
from contextlib import aclosing
from typing import Any

import httpx

from server.identity import Quota, Scope
from server.keys.key import Key
from server.keys.registry import Created, create_key, list_keys, revoke_key
from server.store.base import open_store


def add_key(
    store: str,
    *scopes: Scope,
    name: str = "test",
    expires_s: float | None = None,
    **quota: int,
) -> Created:
    """Make a key as `forethought keys` does, beside a server that has the store open."""

    async def create() -> Created:
        async with aclosing(await open_store(store)) as opened:
            wanted = frozenset(scopes or ("inference",))
            return await create_key(opened.records, name, wanted, Quota(**quota), expires_s)

    return asyncio.run(create())


def end_key(store: str, key_id: str) -> Key:
    async def revoke() -> Key:
        async with aclosing(await open_store(store)) as opened:
            return await revoke_key(opened.records, key_id)

    return asyncio.run(revoke())


def all_keys(store: str) -> list[Key]:
    async def read() -> list[Key]:
        async with aclosing(await open_store(store)) as opened:
            return await list_keys(opened.records)

    return asyncio.run(read())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(url: str, key: str, **body: Any) -> httpx.Response:
    """Send a chat request with a key."""
    question = {"messages": [{"role": "user", "content": "What is 6 times 7?"}]}
    return httpx.post(
        f"{url}/v1/chat/completions", json=question | body, headers=bearer(key), timeout=30
    )
