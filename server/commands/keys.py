"""`forethought keys`: who may ask the server, for what, and how much."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_args

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from server.configuration import ConfigurationError, load_settings, problems_of
from server.identity import Quota, Scope
from server.keys.bootstrap import make_first_keys, wait_for
from server.keys.key import Key, public_id
from server.keys.registry import Created, UnknownKey, create_key, list_keys, revoke_key
from server.settings import KeySettings
from server.store.base import StoreError, StoreUnavailable, open_store
from server.store.opening import default_url

Result = TypeVar("Result")

app = typer.Typer(no_args_is_help=True, add_completion=False)

StoreURL: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--store", help="The server's store: sqlite:PATH or redis://…", show_default="the setting"
    ),
]
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_SCOPES = ", ".join(get_args(Scope))


@app.callback()
def _keys() -> None:
    """Make, list and revoke API keys. A server need not be restarted for it."""


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What people call it.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"May be given several times: {_SCOPES}.", show_default="inference"),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="Such as 12h or 90d from now.", show_default="never")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Quota.")] = None,
    requests_per_day: Annotated[int | None, typer.Option(help="Quota.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(help="Quota: prompt and everything generated.")
    ] = None,
    tokens_per_day: Annotated[int | None, typer.Option(help="Quota.")] = None,
    samples_at_once: Annotated[int | None, typer.Option(help="Quota, over all requests.")] = None,
    max_samples: Annotated[
        int | None, typer.Option(help="Samples that a request may draw.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Largest budget of a request.")] = None,
    store: StoreURL = None,
) -> None:
    """Make a key. It is written to standard output, once: only its hash is kept."""
    quota = _quota(
        requests_per_minute=requests_per_minute,
        requests_per_day=requests_per_day,
        tokens_per_minute=tokens_per_minute,
        tokens_per_day=tokens_per_day,
        samples_at_once=samples_at_once,
        max_samples=max_samples,
        max_tokens=max_tokens,
    )
    scopes = _scopes(scope or ["inference"])
    made = _run(_create(store, name, scopes, quota, _seconds(expires)))
    Console(stderr=True).print(_table([made.key]))
    sys.stderr.write("This is the only time that the key is shown:\n")
    sys.stdout.write(f"{made.secret}\n")


@app.command("list")
def list_(store: StoreURL = None) -> None:
    """List all keys, the newest first, without their secrets."""
    found = _run(_list(store))
    Console().print(_table(found) if found else "There are no keys.")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Its id, as `list` shows it.")],
    store: StoreURL = None,
) -> None:
    """End a key. Servers that used it just now go on for some seconds: `keys.cache_s`."""
    revoked = _run(_revoke(store, public_id(key) or key))
    sys.stdout.write(f"{revoked.id} ({revoked.name}) is revoked\n")


@app.command()
def bootstrap(store: StoreURL = None) -> None:
    """Make the keys whose files are set (`keys.bootstrap_file`, `keys.metrics_file`), once."""
    for path in _run(_bootstrap(store)):
        sys.stdout.write(f"{path}\n")


async def _create(
    url: str | None, name: str, scopes: frozenset[Scope], quota: Quota, expires_s: float | None
) -> Created:
    async with aclosing(await open_store(_url(url))) as store:
        return await create_key(store.records, name, scopes, quota, expires_s)


async def _list(url: str | None) -> list[Key]:
    async with aclosing(await open_store(_url(url))) as store:
        return await list_keys(store.records)


async def _revoke(url: str | None, key_id: str) -> Key:
    async with aclosing(await open_store(_url(url))) as store:
        return await revoke_key(store.records, key_id)


async def _bootstrap(url: str | None) -> list[Path]:
    settings: KeySettings = load_settings().keys
    if settings.bootstrap_file is None and settings.metrics_file is None:
        raise ConfigurationError(["keys: neither `bootstrap_file` nor `metrics_file` is set"])
    async with aclosing(await open_store(_url(url))) as store:
        await wait_for(store)
        return await make_first_keys(settings, store)


def _url(given: str | None) -> str:
    return given or load_settings().store or default_url()


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Do it; what goes wrong is told in a line."""
    try:
        return asyncio.run(work)
    except UnknownKey as error:
        told = f"there is no key {error}"
    except StoreUnavailable as error:
        told = error.message
    except (ConfigurationError, StoreError) as error:
        told = str(error)
    sys.stderr.write(f"forethought: {told}\n")
    raise typer.Exit(1)


def _quota(**amounts: int | None) -> Quota:
    try:
        return TypeAdapter(Quota).validate_python(amounts)
    except ValidationError as error:
        told = "; ".join(problems_of(error, "quota"))
        raise typer.BadParameter(told) from error


def _scopes(names: Sequence[str]) -> frozenset[Scope]:
    try:
        return TypeAdapter(frozenset[Scope]).validate_python(names)
    except ValidationError as error:
        raise typer.BadParameter(f"there are {_SCOPES}", param_hint="--scope") from error


def _seconds(written: str | None) -> float | None:
    if written is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,5})([mhd])", written)
    if found is None:
        raise typer.BadParameter("such as 30m, 12h or 90d", param_hint="--expires")
    return int(found[1]) * float(_UNITS[found[2]])


def _table(keys: Sequence[Key]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("Id", "Name", "Scopes", "State", "Created", "Expires", "Quota"):
        table.add_column(title, overflow="fold")
    for key in keys:
        table.add_row(
            key.id,
            key.name,
            " ".join(sorted(key.scopes)),
            key.state,
            _moment(key.created_at),
            "never" if key.expires_at is None else _moment(key.expires_at),
            _amounts(key.quota),
        )
    return table


def _amounts(quota: Quota) -> str:
    given = TypeAdapter(Quota).dump_python(quota, exclude_none=True)
    return ", ".join(f"{name}={amount}" for name, amount in given.items())


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
