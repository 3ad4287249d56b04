"""The pool of httpx transports against a server that writes bytes as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import httpx
import pytest

from server.engines.http_connection import Connections, pieces, read
from verifiers.errors import EngineError, EngineTimeout, EngineUnavailable

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request with the next of the given bytes, slowly where they are many parts."""

    def __init__(self, answers: Sequence[Sequence[bytes]], *, close: bool = False) -> None:
        self.answers = list(answers)
        self.close = close
        self.connected = self.hung_up = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                for part in self.answers.pop(0):
                    writer.write(part)
                    await asyncio.sleep(0.01)
                if self.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up += 1
        writer.close()


@asynccontextmanager
async def serving(
    *answers: Sequence[bytes], close: bool = False, limit: int = 4
) -> AsyncIterator[tuple[Server, Connections]]:
    server = Server(answers, close=close)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    connections = Connections(limit=limit, timeout=0.5)
    async with listener:
        yield server, connections
        await connections.aclose()
        await asyncio.sleep(0.05)


async def fetch(connections: Connections, port: int) -> bytes:
    request = httpx.Request("GET", f"http://127.0.0.1:{port}/")
    async with connections.exchange(request) as response:
        return await read(response)


async def test_a_connection_is_used_again() -> None:
    async with serving([ANSWER], [ANSWER], [ANSWER]) as (server, connections):
        assert [await fetch(connections, server.port) for _ in range(3)] == [b"ok"] * 3
        assert server.connected == 1


async def test_one_that_the_server_closed_is_not() -> None:
    async with serving([ANSWER], [ANSWER], close=True) as (server, connections):
        assert await fetch(connections, server.port) == b"ok"
        await asyncio.sleep(0.05)
        assert await fetch(connections, server.port) == b"ok"
        assert server.connected == 2


async def test_bodies_of_every_kind_are_read() -> None:
    head = b"HTTP/1.1 200 OK\r\n"
    chunked = [head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", b"1\r\nc\r\n0\r\n\r\n"]
    split = [head + b"Content-Le", b"ngth: 3\r\n\r\na", b"bc"]
    until_closed = [head + b"Connection: close\r\n\r\na", b"bc"]
    for parts in (chunked, split, until_closed):
        async with serving(parts, close=True) as (server, connections):
            assert await fetch(connections, server.port) == b"abc"


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"\x00\x01 nonsense\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
    ],
    ids=["nothing", "nonsense", "half", "bad-chunk"],
)
async def test_a_broken_answer_is_an_engine_error(parts: list[bytes]) -> None:
    async with serving(parts, close=True) as (server, connections):
        with pytest.raises(EngineError):
            await fetch(connections, server.port)


async def test_silence_is_a_timeout_and_closes() -> None:
    async with serving([b"HTTP/1.1 200 OK\r\n"]) as (server, connections):
        with pytest.raises(EngineTimeout):
            await fetch(connections, server.port)
        await asyncio.sleep(0.05)
        assert server.hung_up == 1


async def test_connections_are_limited_and_given_on() -> None:
    async with serving(*[[ANSWER]] * 6, limit=2) as (server, connections):
        async with asyncio.TaskGroup() as group:
            fetches = [group.create_task(fetch(connections, server.port)) for _ in range(6)]
        assert [task.result() for task in fetches] == [b"ok"] * 6
        assert server.connected == 2


async def test_a_refused_connection_frees_its_place() -> None:
    async with serving() as (server, _):
        port = server.port
    connections = Connections(limit=1)
    for _ in range(3):
        with pytest.raises(EngineUnavailable):
            await fetch(connections, port)


async def test_unasked_bytes_close_the_connection() -> None:
    async with serving([ANSWER, ANSWER], [ANSWER]) as (server, connections):
        assert await fetch(connections, server.port) == b"ok"
        await asyncio.sleep(0.05)
        assert await fetch(connections, server.port) == b"ok"
        assert server.connected == 2


async def test_a_reader_that_is_cancelled_while_it_closes_blocks_nobody() -> None:
    slow = [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"def", b"ghi"]

    async def leave(port: int) -> None:
        request = httpx.Request("GET", f"http://127.0.0.1:{port}/")
        async with connections.exchange(request) as response, aclosing(pieces(response)) as body:
            async for _ in body:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()  # it comes at the next await: in the middle of the close
                break

    async with serving(slow, [ANSWER], limit=1) as (server, connections):
        leaving = asyncio.create_task(leave(server.port))
        await asyncio.wait([leaving])
        assert leaving.cancelled()
        async with asyncio.timeout(5):
            assert await fetch(connections, server.port) == b"ok"
        await asyncio.sleep(0.05)
        assert server.hung_up == 1
