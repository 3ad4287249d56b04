"""Put a promoted version in the place of the one that is served, under load.

load     the adapter on every engine that it fits, the verifiers beside those that run
switch   in one turn of the event loop: a request finds all of the old version or all of the new
release  what was replaced, when every request that ran at the switch has ended
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

from server.checkpoints.in_flight import InFlight
from server.checkpoints.library import Checkpoint
from server.checkpoints.shelf import AdapterShelf
from verifiers.base import Verifier
from verifiers.errors import EngineError, VerifierError
from verifiers.manifest import Kind, ManifestError, read_manifest

Rebuild: TypeAlias = Callable[[Mapping[str, Checkpoint], str], dict[str, Verifier]]
"""Build anew the verifiers that follow a name, by what is promoted. Raises VerifierError."""

POLICY: Kind = "lora"
"""The kind whose adapters answer requests; others are for verifiers alone."""
ADAPTED: tuple[Kind, ...] = ("lora", "prm", "generative")
"""Kinds that, as adapters, an engine can hold. A head over the base is no part of one."""

_log = logging.getLogger("forethought.checkpoints")


class Refused(Exception):
    """This version cannot be served here; the one before it goes on."""


class Exchange:
    """What is served of the store, and the only one who changes it."""

    def __init__(
        self,
        shelves: Mapping[str, AdapterShelf],
        verifiers: dict[str, Verifier],
        rebuild: Rebuild,
        in_flight: InFlight,
    ) -> None:
        """`shelves` are by engines' names; `verifiers` those that requests find."""
        self._shelves, self._verifiers = shelves, verifiers
        self._rebuild, self._in_flight = rebuild, in_flight
        self.served: dict[str, Checkpoint] = {}
        """By name."""

    def policies(self, engine: str) -> dict[str, Checkpoint]:
        """Return the adapters that answer requests on an engine, by the name asked for."""
        held = self.held(engine)
        return {
            name: each
            for name, each in self.served.items()
            if each.manifest.kind == POLICY and each.spec in held
        }

    def held(self, engine: str) -> frozenset[str]:
        """Return the names under which an engine holds adapters for us."""
        return self._shelves[engine].held if engine in self._shelves else frozenset()

    def fitting(self, checkpoint: Checkpoint) -> list[AdapterShelf]:
        """Return the engines that can hold it."""
        if not checkpoint.is_adapter or checkpoint.manifest.kind not in ADAPTED:
            return []
        return [shelf for shelf in self._shelves.values() if shelf.fits(checkpoint)]

    async def begin(self, checkpoint: Checkpoint) -> None:
        """Serve a version before there are requests: its verifiers are built and not started.

        Raises:
            Refused: it is damaged, or an engine cannot load it.
            Full: there is no slot for it.
        """
        async with AsyncExitStack() as undo:
            await self._load(checkpoint, undo)
            undo.pop_all()
        self.served[checkpoint.name] = checkpoint

    async def replace(self, checkpoint: Checkpoint) -> Coroutine[Any, Any, None]:
        """Serve a version from now on; return what releases the one before, to be awaited.

        Raises:
            Refused: it is damaged, an engine cannot load it, or a verifier does not start.
            Full: there is no slot for it now.
        """
        async with AsyncExitStack() as undo:
            await self._load(checkpoint, undo)
            started = await self._start(checkpoint, undo)
            undo.pop_all()
        # From here to the return nothing else runs.
        before = self.served.get(checkpoint.name)
        replaced = [self._verifiers[name] for name in started]
        self.served[checkpoint.name] = checkpoint
        self._verifiers.update(started)
        return self._release(before, replaced)

    async def _load(self, checkpoint: Checkpoint, undo: AsyncExitStack) -> None:
        try:
            await asyncio.to_thread(read_manifest, checkpoint.path)
            for shelf in self.fitting(checkpoint):
                await shelf.take(checkpoint)
                undo.push_async_callback(shelf.release, checkpoint)
        except (ManifestError, EngineError, OSError) as error:
            raise Refused(str(error)) from error

    async def _start(self, checkpoint: Checkpoint, undo: AsyncExitStack) -> dict[str, Verifier]:
        promoted = {**self.served, checkpoint.name: checkpoint}
        try:
            built = self._rebuild(promoted, checkpoint.name)
            for verifier in built.values():
                undo.push_async_callback(verifier.aclose)
                await verifier.start()
        except VerifierError as error:
            raise Refused(error.message) from error
        return built

    async def _release(self, before: Checkpoint | None, verifiers: list[Verifier]) -> None:
        try:
            await self._in_flight.ended()
        finally:
            for verifier in verifiers:
                await verifier.aclose()
            if before is not None:
                await self._forget(before)

    async def _forget(self, checkpoint: Checkpoint) -> None:
        for shelf in self.fitting(checkpoint):
            try:
                await shelf.release(checkpoint)
            except EngineError as error:
                _log.error("%s cannot be forgotten: %s", checkpoint.spec, error.message)
