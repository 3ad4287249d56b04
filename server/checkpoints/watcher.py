"""Notice promotions while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias

from server.checkpoints.exchange import POLICY, Exchange, Refused
from server.checkpoints.library import (
    PROMOTED,
    UNSERVED,
    Checkpoint,
    CheckpointError,
    CheckpointLibrary,
)
from server.checkpoints.shelf import Full

Outcome: TypeAlias = Literal["taken", "refused"]

_log = logging.getLogger("forethought.checkpoints")


class Watcher:
    """Looks at the store's promotions, and has new ones served.

    A look is one `stat` for each name; what has changed is read.
    """

    def __init__(
        self,
        library: CheckpointLibrary,
        exchange: Exchange,
        wanted: Collection[str],
        follow: Collection[str] | None,
        count: Callable[[Outcome], None],
    ) -> None:
        """Follow the names of `follow`, None: all, if they are adapters of policies or `wanted`.

        `wanted` are those that verifiers name; `count` is told what became of each promotion.
        """
        self._library, self._exchange = library, exchange
        self._wanted, self._follow, self._count = wanted, follow, count
        self._seen: dict[str, tuple[int, int]] = {}
        self._told: set[str] = set()
        """What was refused, or waits for a slot: said once."""

    async def begin(self, promoted: Collection[Checkpoint]) -> None:
        """Have what was promoted served before there are requests."""
        for checkpoint in promoted:
            if self._concerns(checkpoint):
                try:
                    await self._exchange.begin(checkpoint)
                except (Refused, Full) as refusal:
                    self._refuse(checkpoint.spec, refusal)

    @asynccontextmanager
    async def watching(self, every_s: float) -> AsyncIterator[None]:
        """Look again and again while the block lasts; what was replaced is released at its end."""
        task = asyncio.create_task(self._run(every_s))
        task.add_done_callback(_tell)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, every_s: float) -> None:
        async with asyncio.TaskGroup() as releases:
            while True:
                await self.look(releases)
                await asyncio.sleep(every_s)

    async def look(self, releases: asyncio.TaskGroup) -> None:
        """Have what was promoted since the last look served; `releases` waits for the rest."""
        try:
            found = await asyncio.to_thread(self._signatures)
        except OSError as error:
            self._refuse(str(self._library.root), error)
            return
        for name, signature in found.items():
            if self._seen.get(name) != signature and await self._follow_up(name, releases):
                self._seen[name] = signature

    def _signatures(self) -> dict[str, tuple[int, int]]:
        """Say of each history which file it is: every change is another file."""
        found = {}
        for path in sorted(self._library.root.glob(f"*/{PROMOTED}")):
            status = path.stat()
            found[path.parent.name] = (status.st_ino, status.st_mtime_ns)
        return found

    async def _follow_up(self, name: str, releases: asyncio.TaskGroup) -> bool:
        """Have the promoted version served; return whether that is settled, one way or other."""
        try:
            checkpoint = await asyncio.to_thread(self._library.find, name)
        except (CheckpointError, OSError) as error:
            self._refuse(name, error)
            return True
        served = self._exchange.served.get(name)
        if not self._concerns(checkpoint) or (served and served.spec == checkpoint.spec):
            return True
        try:
            release = await self._exchange.replace(checkpoint)
        except Full as full:
            if checkpoint.spec not in self._told:
                _log.warning("%s waits for a slot: %s", checkpoint.spec, full)
                self._told.add(checkpoint.spec)
            return False
        except Refused as refusal:
            self._refuse(checkpoint.spec, refusal)
            return True
        releases.create_task(release)
        self._told.discard(checkpoint.spec)
        self._count("taken")
        _log.info("%s is served", checkpoint.spec)
        return True

    def _concerns(self, checkpoint: Checkpoint) -> bool:
        """Whether it is for this server; one that was asked for by name and is not, is refused."""
        name, served = checkpoint.name, self._exchange.served.get(checkpoint.name)
        named = name in self._wanted or name in (self._follow or ())
        if not named and self._follow is not None:
            return False
        if served is not None and served.is_adapter != checkpoint.is_adapter:
            self._refuse(checkpoint.spec, f"{served.spec} is served, which is another kind of part")
            return False
        if self._exchange.fitting(checkpoint):
            return name in self._wanted or checkpoint.manifest.kind == POLICY
        if checkpoint.is_adapter and (named or served is not None):
            whole = checkpoint.manifest.kind == "policy"
            other = "it is for another model, or another tokenizer"
            self._refuse(checkpoint.spec, f"it {UNSERVED}" if whole else other)
        return name in self._wanted and not checkpoint.is_adapter

    def _refuse(self, what: str, why: object) -> None:
        if what not in self._told:
            self._told.add(what)
            self._count("refused")
            _log.warning("%s is not served: %s", what, why)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.critical("promotions are not followed any more", exc_info=error)
