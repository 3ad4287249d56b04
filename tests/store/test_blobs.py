"""What every store promises of blobs."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from server.store.base import Store, StoreUnavailable
from server.store.blobs import PIECE_BYTES, in_pieces


async def pieces_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def read(store: Store, blob_id: str) -> bytes:
    pieces = [piece async for piece in store.blobs.read(blob_id)]
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize(
    ("sizes", "cut"),
    [
        ((), []),
        ((0, 0), []),
        ((3, 0, 1), [4]),
        ((4, 4), [4, 4]),
        ((1, 11), [4, 4, 4]),
        ((9, 1), [4, 4, 2]),
    ],
)
async def test_pieces_are_cut_and_joined(sizes: tuple[int, ...], cut: list[int]) -> None:
    given = [os.urandom(size) for size in sizes]
    got = [piece async for piece in in_pieces(pieces_of(*given), 4)]
    assert [len(piece) for piece in got] == cut
    assert b"".join(got) == b"".join(given)


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 2 * PIECE_BYTES + 1])
async def test_a_file_is_read_as_it_was_written(store: Store, peer: Store, size: int) -> None:
    data = os.urandom(size)
    third = size // 3
    written = await store.blobs.write("a", pieces_of(data[:third], data[third:]))
    assert written == size
    assert await read(peer, "a") == data


async def test_nobody_sees_a_file_before_it_is_whole(store: Store, peer: Store) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield bytes(PIECE_BYTES)
        with pytest.raises(KeyError):
            await read(peer, "a")
        yield b"end"

    await store.blobs.write("a", slow())
    assert len(await read(peer, "a")) == PIECE_BYTES + 3


async def test_nothing_is_left_of_a_file_that_breaks_off(store: Store) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(PIECE_BYTES + 1)
        raise ValueError("the client went away")

    with pytest.raises(ValueError, match="went away"):
        await store.blobs.write("a", broken())
    with pytest.raises(KeyError):
        await read(store, "a")
    await store.blobs.write("a", pieces_of(b"old"))
    with pytest.raises(ValueError, match="went away"):
        await store.blobs.write("a", broken())
    assert await read(store, "a") == b"old"


async def test_a_writer_that_is_cancelled_leaves_nothing(store: Store) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(PIECE_BYTES)
            begun.set()
            await asyncio.sleep(0.001)

    writing = asyncio.create_task(store.blobs.write("a", endless()))
    await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    with pytest.raises(KeyError):
        await read(store, "a")


async def test_what_a_writer_that_hangs_has_written_is_deleted(
    store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "redis" if kind == "redis" else "sqlite"
    monkeypatch.setattr(f"server.store.{place}.blobs.WRITING_S", 0.05)

    async def hanging() -> AsyncIterator[bytes]:
        yield bytes(PIECE_BYTES)
        await asyncio.sleep(0.2)
        await store.sweep()

    with pytest.raises(StoreUnavailable, match="too slowly"):
        await store.blobs.write("a", hanging())
    with pytest.raises(KeyError):
        await read(store, "a")


async def test_writing_over(store: Store) -> None:
    await store.blobs.write("a", pieces_of(bytes(PIECE_BYTES), b"old"), expires_s=0.4)
    await store.blobs.write("a", pieces_of(b"new"))
    assert await read(store, "a") == b"new"
    await asyncio.sleep(0.45)
    assert await read(store, "a") == b"new"


async def test_deleting(store: Store) -> None:
    assert not await store.blobs.delete("a")
    await store.blobs.write("a", pieces_of(b"data"))
    assert await store.blobs.delete("a")
    assert not await store.blobs.delete("a")
    with pytest.raises(KeyError):
        await read(store, "a")


@pytest.mark.parametrize("written_over", [True, False])
async def test_a_reader_is_told_that_the_file_went_away(store: Store, written_over: bool) -> None:
    await store.blobs.write("a", pieces_of(bytes(3 * PIECE_BYTES)))
    reading = store.blobs.read("a")
    assert len(await anext(reading)) == PIECE_BYTES
    if written_over:
        await store.blobs.write("a", pieces_of(bytes(3 * PIECE_BYTES)))
    else:
        await store.blobs.delete("a")
    with pytest.raises(KeyError):
        async for _ in reading:
            pass


async def test_a_file_expires(store: Store) -> None:
    await store.blobs.write("a", pieces_of(b"data"), expires_s=0.4)
    await store.blobs.write("b", pieces_of(b"data"), expires_s=60)
    assert await read(store, "a") == b"data"
    await asyncio.sleep(0.45)
    with pytest.raises(KeyError):
        await read(store, "a")
    assert not await store.blobs.delete("a")
    await store.sweep()
    assert await read(store, "b") == b"data"


async def test_two_writers_of_one_id_do_not_mix(store: Store, peer: Store) -> None:
    size = PIECE_BYTES + 7
    async with asyncio.TaskGroup() as group:
        group.create_task(store.blobs.write("a", pieces_of(b"a" * size)))
        group.create_task(peer.blobs.write("a", pieces_of(b"b" * size)))
    assert await read(store, "a") in (b"a" * size, b"b" * size)
