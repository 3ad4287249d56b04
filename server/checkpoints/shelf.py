"""The adapters that an engine holds for checkpoints: loaded once each, however many use them."""

from __future__ import annotations

import asyncio
from collections import Counter

from server.checkpoints.library import Checkpoint
from verifiers.types import AdapterHost


class Full(Exception):
    """Every slot for adapters is taken; one may come free."""


class AdapterShelf:
    """The slots of one engine, and whose adapters fit its model."""

    def __init__(self, engine: AdapterHost, names: frozenset[str], tokenizer: str | None) -> None:
        """`names`: what manifests call the engine's model; tokenizer: its digest, None: any."""
        self._engine, self._names, self._tokenizer = engine, names, tokenizer
        self._uses: Counter[str] = Counter()
        self._changing = asyncio.Lock()

    @property
    def held(self) -> frozenset[str]:
        """The specs of the adapters that it holds, those that wait to be forgotten too."""
        return frozenset(self._uses)

    def fits(self, checkpoint: Checkpoint) -> bool:
        """Whether the adapter was made on this engine's model and tokenizer."""
        manifest = checkpoint.manifest
        same = self._tokenizer in (None, manifest.tokenizer)
        return same and manifest.base_model in self._names

    async def take(self, checkpoint: Checkpoint) -> None:
        """Have the engine load it, under a name that no other weights have.

        Raises:
            Full: there is no slot for it now.
            EngineError: the engine cannot load it.
        """
        async with self._changing:
            spec, slots = checkpoint.spec, self._engine.adapter_slots
            if spec not in self._uses:
                if len(self._uses) >= slots:
                    held = ", ".join(sorted(self._uses))
                    raise Full(f"adapter_slots = {slots} are taken by {held}")
                await self._engine.add_adapter(spec, checkpoint.path)
            self._uses[spec] += 1

    async def release(self, checkpoint: Checkpoint) -> None:
        """Have the engine forget it, once as often as it was taken. Raises EngineError."""
        async with self._changing:
            self._uses[checkpoint.spec] -= 1
            if not self._uses[checkpoint.spec]:
                del self._uses[checkpoint.spec]
                await self._engine.remove_adapter(checkpoint.spec)
