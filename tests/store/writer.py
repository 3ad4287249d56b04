"""A process that writes until it is killed, and says what it was told is kept.

`python -m tests.store.writer URL NAME`
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

from server.store.base import Store, open_store
from server.store.jobs import Job
from server.store.limits import Charge


async def write_round(store: Store, name: str, number: int) -> None:
    """Make one change of each kind, all of them bearing the number."""

    async def pieces() -> AsyncIterator[bytes]:
        yield f"{name} {number} ".encode() * 100

    body = {"number": number, "text": "x" * 500}
    async with asyncio.TaskGroup() as group:
        group.create_task(store.records.add("written", f"{name}-{number}", body))
        group.create_task(store.blobs.write(f"{name}-{number}", pieces()))
        group.create_task(store.streams.append(name, [body]))
        group.create_task(store.jobs.enqueue(name, name, [Job(f"{number}", body)]))
        group.create_task(store.limits.charge([Charge(name, 1, 1 << 40, 3_600)]))
    [claim] = await store.jobs.claim(name)
    await store.jobs.finish(claim, body)


async def main(url: str, name: str) -> None:
    """Write round after round; a number that is printed was written whole."""
    async with aclosing(await open_store(url)) as store:
        number = 0
        while True:
            await write_round(store, name, number)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
            number += 1


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
