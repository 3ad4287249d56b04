"""`forethought sandbox`: run programs that are posted to it, for servers that may not do so.

    POST /run       {"source", "stdin", "limits"} -> a `verifiers.sandbox.Outcome`
    GET  /healthz   whether it lives

Meant for a container of its own that may make user namespaces, that only the server reaches, and
that holds nothing. There is no authentication: whoever reaches it may run programs in it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from dataclasses import asdict
from typing import Annotated

import typer
import uvicorn
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from server.body import parse_json, read_body, validated
from server.disconnect import ClientGone, while_connected
from server.errors import CLIENT_GONE, error_response
from verifiers.errors import ForethoughtError, Overloaded
from verifiers.sandbox import LocalSandbox, Program
from verifiers.sandbox_command import Limits

MAX_BODY_BYTES = 4 << 20
WAITING_PER_SLOT = 32
"""Programs that may wait for each that can run; more are refused."""
_USUAL = Limits()


class LimitsWanted(BaseModel):
    """What a program may use, within what the service gives to anyone."""

    model_config = ConfigDict(extra="forbid")

    seconds: float = Field(_USUAL.seconds, gt=0, le=610)
    memory_mebibytes: int = Field(_USUAL.memory_mebibytes, ge=64, le=65_536)
    processes: int = Field(_USUAL.processes, ge=1, le=256)
    disk_mebibytes: int = Field(_USUAL.disk_mebibytes, ge=1, le=1_024)
    output_bytes: int = Field(_USUAL.output_bytes, ge=1, le=1 << 24)


class RunRequest(BaseModel):
    """A program to run."""

    model_config = ConfigDict(extra="forbid")

    source: str
    stdin: str = ""
    limits: LimitsWanted = LimitsWanted()


class Service:
    """Runs programs, some at a time, and lets a bounded number wait."""

    def __init__(self, at_once: int, waiting: int | None = None) -> None:
        self._sandbox = LocalSandbox(at_once)
        self._most = at_once + (at_once * WAITING_PER_SLOT if waiting is None else waiting)
        self._accepted = 0

    async def unavailable(self) -> str | None:
        """Say why no program can be run here."""
        return await self._sandbox.unavailable()

    async def run(self, http: Request) -> Response:
        """Run a program while its client waits; hanging up kills it."""
        if self._accepted >= self._most:
            raise Overloaded("too many programs wait already")
        self._accepted += 1
        try:
            wanted = validated(RunRequest, parse_json(await read_body(http, MAX_BODY_BYTES)), "")
            program = Program(wanted.source, wanted.stdin)
            limits = Limits(**wanted.limits.model_dump())
            outcome = await while_connected(self._sandbox.run(program, limits), http.receive)
        finally:
            self._accepted -= 1
        return Response(to_json(asdict(outcome)), media_type="application/json")


def create_sandbox_app(service: Service) -> Starlette:
    """Put HTTP before the service."""
    return Starlette(
        routes=[
            Route("/run", service.run, methods=["POST"]),
            Route("/healthz", lambda _: PlainTextResponse("ok\n")),
        ],
        exception_handlers={
            ForethoughtError: _on_ours,
            ClientGone: _on_gone,
            ClientDisconnect: _on_gone,
        },
    )


def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any.")] = 8019,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Programs at a time; default: one per core.")
    ] = None,
) -> None:
    """Run untrusted Python programs for a server (the verifier `python_tests`)."""
    service = Service(at_once or os.cpu_count() or 1)
    reason = asyncio.run(service.unavailable())
    if reason is not None:
        sys.stderr.write(f"forethought: {reason}\n")
        raise typer.Exit(1)
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        sys.stderr.write(f"forethought: cannot listen on {host}:{port}: {error.strerror}\n")
        raise typer.Exit(1) from error
    with listener:
        sys.stdout.write(f"Sandbox on http://{host}:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        config = uvicorn.Config(
            create_sandbox_app(service),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        uvicorn.Server(config).run(sockets=[listener])


async def _on_ours(_: Request, error: Exception) -> Response:
    assert isinstance(error, ForethoughtError)
    return error_response(error)


async def _on_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)
