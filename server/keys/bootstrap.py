"""Whether a server asks for keys, and has any: looked at before it starts."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import aclosing, suppress
from ipaddress import ip_address
from pathlib import Path
from tempfile import NamedTemporaryFile

from server.checkpoints.durable import flush
from server.configuration import ConfigurationError
from server.identity import SCOPES, Scope
from server.keys.key import draw_key
from server.keys.registry import KIND, list_keys, make_key
from server.settings import KeySettings, Settings
from server.store.base import Store, StoreUnavailable, open_store
from server.store.opening import MEMORY

PATIENCE_S = 30.0
"""How long a start waits for the store: both may have been started together."""
_METRICS: frozenset[Scope] = frozenset(("metrics",))


def asks_for_keys(settings: Settings) -> bool:
    """Whether requests need a key: by default where others than this machine can send them."""
    if settings.keys.mode != "auto":
        return settings.keys.mode == "required"
    addresses = socket.getaddrinfo(settings.host, None, type=socket.SOCK_STREAM)
    return not all(
        ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in addresses
    )


async def prepare_keys(settings: Settings) -> None:
    """Make the keys that the settings ask for; refuse to start where one is needed and none is.

    Raises:
        ConfigurationError: there is no key, a key's file cannot be used, or the store is away.
        StoreError: the store cannot be opened.
    """
    if not asks_for_keys(settings):
        return
    assert settings.store is not None, "`serve` fills it in"
    if settings.store == MEMORY:
        raise ConfigurationError(["store: one that ends with the server can keep no API keys"])
    async with aclosing(await open_store(settings.store)) as store:
        await wait_for(store)
        await make_first_keys(settings.keys, store)
        if not any(key.state == "active" for key in await list_keys(store.records)):
            raise ConfigurationError([_no_key(settings)])


async def make_first_keys(settings: KeySettings, store: Store) -> list[Path]:
    """Let the keys in the files that are set open this server; return the files.

    Raises:
        ConfigurationError: a file cannot be written, or holds no key.
    """
    made = []
    if settings.bootstrap_file is not None:
        await _keep(store, settings.bootstrap_file, "bootstrap", SCOPES, 0o600)
        made.append(settings.bootstrap_file)
    if settings.metrics_file is not None:
        # Prometheus is another user; what is not secret to its group opens `/metrics` alone.
        await _keep(store, settings.metrics_file, "metrics", _METRICS, 0o640)
        made.append(settings.metrics_file)
    return made


def _no_key(settings: Settings) -> str:
    return (
        f"keys: requests to {settings.host} need an API key, and there is none: make one with "
        "`forethought keys create`, let the server make one (setting `keys.bootstrap_file`), or "
        "serve everybody with `--keys none`"
    )


async def wait_for(store: Store) -> None:
    """Wait until the store answers. Raises ConfigurationError if it does not in half a minute."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await store.check()
        except StoreUnavailable as error:
            if time.monotonic() > end:
                told = f"store: {error.message}, and requests need its API keys"
                raise ConfigurationError([told]) from error
        await asyncio.sleep(0.5)


async def _keep(store: Store, path: Path, name: str, scopes: frozenset[Scope], mode: int) -> None:
    """Let the key in the file open this server, unless it was revoked; at first, make both.

    The file comes first: whatever is killed when, the next start finds a key and keeps it.
    """
    try:
        key = make_key(_first_key(path, mode), name, scopes)
    except (OSError, ValueError) as error:
        raise ConfigurationError([f"keys: {path}: {error}"]) from error
    await store.records.add(KIND, key.id, key.model_dump(mode="json"))


def _first_key(path: Path, mode: int) -> str:
    """Read the key in the file; where there is none, write one, whole or not at all.

    Of several servers that start at once, the first one's file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.") as draft:
            os.fchmod(draft.fileno(), mode)
            draft.write(f"{draw_key()}\n")
            draft.flush()
            os.fsync(draft.fileno())
            with suppress(FileExistsError):
                path.hardlink_to(draft.name)
        flush(path.parent)
    return path.read_text().strip()
