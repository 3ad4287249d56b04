"""Uploaded and written files as they are kept: what they are as a record, their bytes as a blob."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from server.errors import NotFound
from server.store.base import Store

_KIND = "file"
_PAGE = 1_000

Purpose = Literal["batch", "batch_output"]


class File(BaseModel):
    """A file as OpenAI tells of it. Times are Unix times in seconds."""

    model_config = ConfigDict(frozen=True)

    id: str
    object: Literal["file"] = "file"
    bytes: int = 0
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"

    def told(self) -> dict[str, Any]:
        """Return what a client is told."""
        return self.model_dump(mode="json")


class Files:
    """Reads and writes files of owners. All raise StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write(
        self,
        file_id: str,
        pieces: AsyncIterable[bytes],
        *,
        filename: str,
        purpose: Purpose,
        owner: str,
        keep_s: float,
    ) -> File:
        """Keep a file, over one of the same id; what `pieces` raises leaves nothing."""
        size = await self._store.blobs.write(file_id, pieces, expires_s=keep_s)
        now = int(time.time())
        file = File(
            id=file_id,
            bytes=size,
            created_at=now,
            expires_at=now + int(keep_s),
            filename=filename,
            purpose=purpose,
        )
        value = file.model_dump(mode="json")
        await self._store.records.put(_KIND, file_id, value, owner=owner, expires_s=keep_s)
        return file

    async def owned(self, file_id: str, owner: str, param: str = "file_id") -> File:
        """Tell of an owner's file. Raises NotFound."""
        record = await self._store.records.get(_KIND, file_id)
        if record is None or record.owner != owner:
            raise NotFound(f"there is no file {file_id!r}", param=param)
        return File.model_validate(record.value)

    def read(self, file_id: str) -> AsyncIterator[bytes]:
        """Read a file in pieces. Raises KeyError where there is none."""
        return self._store.blobs.read(file_id)

    async def delete(self, file_id: str) -> None:
        """Delete a file, if there is one."""
        await self._store.records.delete(_KIND, file_id)
        await self._store.blobs.delete(file_id)

    async def listed(
        self, owner: str, after: str | None = None, purpose: str | None = None
    ) -> AsyncIterator[File]:
        """List an owner's files, the newest first, behind `after`."""
        while True:
            page = await self._store.records.page(_KIND, owner=owner, after=after, limit=_PAGE)
            for record in page:
                file = File.model_validate(record.value)
                if purpose is None or file.purpose == purpose:
                    yield file
            if len(page) < _PAGE:
                return
            after = page[-1].id
