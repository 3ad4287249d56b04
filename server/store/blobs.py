"""Blobs: files that people upload, and those that batches write."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Protocol

PIECE_BYTES = 1 << 20
"""At most so large are the pieces that are kept and read."""
WRITING_S = 3_600.0
"""What a writer that died had written is deleted so long after its last piece."""
TOO_SLOW = "the file came too slowly to be kept"


class Blobs(Protocol):
    """Reads and writes whole files in pieces. All raise StoreUnavailable."""

    async def write(
        self, blob_id: str, pieces: AsyncIterable[bytes], *, expires_s: float | None = None
    ) -> int:
        """Write a file that nobody sees before it is whole; return its size in bytes.

        If `pieces` raises, nothing is left of it. An id that is there already is written over.
        """

    def read(self, blob_id: str) -> AsyncIterator[bytes]:
        """Read a file in pieces of at most 1 MiB.

        Raises:
            KeyError: there is none, or it is deleted or written over while it is read.
        """

    async def delete(self, blob_id: str) -> bool:
        """Delete a file; say whether there was one."""


async def in_pieces(pieces: AsyncIterable[bytes], size: int) -> AsyncIterator[bytes]:
    """Cut and join pieces, so that all but the last have this size and none is empty."""
    rest = bytearray()
    async for piece in pieces:
        rest += piece
        while len(rest) >= size:
            yield bytes(rest[:size])
            del rest[:size]
    if rest:
        yield bytes(rest)
