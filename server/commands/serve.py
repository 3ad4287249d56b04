"""`forethought serve`: read the settings, get the model, start the engine, serve, drain, end."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
import uvloop

from server.app import create_app
from server.build import check_settings, find_models, open_state
from server.commands.first_request import first_request
from server.commands.shutdown import SIGNALS, DrainingServer, Shutdown
from server.configuration import ConfigurationError, load_settings
from server.keys.bootstrap import asks_for_keys, prepare_keys
from server.logs import configure_logging
from server.models import (
    LoggedProgress,
    ModelDirectory,
    ModelError,
    Progress,
    TerminalProgress,
)
from server.protocol import bounded
from server.settings import MAIN_ENGINE, Settings
from server.store.base import StoreError
from server.store.opening import default_url
from server.traces import TraceError
from verifiers.errors import EngineError


def serve(
    model: Annotated[
        str | None, typer.Option(help="Catalogue name, hub id or directory; http: upstream's name.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="vllm, http or scripted (no model).")] = None,
    upstream: Annotated[
        str | None, typer.Option(help="For --engine http: URL up to and with /v1.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    log_level: Annotated[
        str | None, typer.Option(help="critical, error, warning, info or debug.")
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(help="API keys: required, none, or auto (none where only this machine asks)."),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(help="all, server (no work on batches) or worker (only work on batches)."),
    ] = None,
) -> None:
    """Serve a model with test-time scaling behind OpenAI's chat API.

    Every option is also a setting FORETHOUGHT_… and a key of the TOML file. By default it serves
    the catalogue's default model with vLLM on http://127.0.0.1:8000.
    """
    started = time.monotonic()
    try:
        settings = load_settings(
            config,
            model=model,
            engine=engine,
            upstream=upstream,
            host=host,
            port=port,
            log_level=log_level,
            keys=None if keys is None else {"mode": keys},
            role=role,
        )
        settings = settings.model_copy(update={"store": settings.store or default_url()})
        configure_logging(settings.log_level, settings.log_format)
        check_settings(settings)
        progress = LoggedProgress() if settings.log_format == "json" else TerminalProgress()
        with _bound(settings.host, settings.port) as listener:
            asyncio.run(prepare_keys(settings))
            models = find_models(settings, progress)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                code = runner.run(_serve(settings, models, listener, progress, started))
            # An impatient third Ctrl-C while Python ends must not change the exit code.
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
    except (ConfigurationError, ModelError, EngineError, TraceError, StoreError) as error:
        sys.stderr.write(f"forethought: {error}\n")
        raise typer.Exit(1) from error
    raise typer.Exit(code)


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """Bind, but do not listen yet: a taken port is told before the model is loaded."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigurationError([f"host: {host}: {error.strerror}"]) from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            reason = f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port"
            raise ConfigurationError([reason]) from error
        yield listener


async def _serve(
    settings: Settings,
    models: Mapping[str, ModelDirectory],
    listener: socket.socket,
    progress: Progress,
    started: float,
) -> int:
    """Serve until a signal comes; return the exit code."""
    shutdown = Shutdown()
    try:
        async with open_state(settings, models, progress) as state:
            url = _url(listener)
            served = state.service.engines[MAIN_ENGINE].model
            config = uvicorn.Config(
                create_app(state),
                http=bounded(settings.limits.head_s),
                ws="none",
                lifespan="off",
                log_level=max(logging.WARNING, logging.getLevelName(settings.log_level.upper())),
                log_config=None,
                access_log=False,
                server_header=False,
            )
            seconds = time.monotonic() - started
            server = DrainingServer(
                config,
                settings,
                state.draining,
                lambda: first_request(url, served, seconds, keys=asks_for_keys(settings)),
            )
            settle_heap()
            await shutdown.serve(server, listener)
    except asyncio.CancelledError:
        return shutdown.code
    return 0


def settle_heap() -> None:
    """Let the garbage collector run less often, and only over what came after the start.

    A reply with log-probabilities is thousands of small objects without circles. Making them sets
    the collector off at Python's default of 700: that was a quarter of a request's CPU time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
