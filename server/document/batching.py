"""Files and batches."""

from __future__ import annotations

from typing import Literal

from server.batches.batch import Status
from server.document.base import Answer


class StoredFile(Answer):
    """A file."""

    id: str
    """By which it is found."""
    object: Literal["file"]
    """What this is."""
    bytes: int
    """Its size."""
    created_at: int
    """Unix time."""
    expires_at: int
    """Unix time from which it is gone."""
    filename: str
    """As it was uploaded."""
    purpose: Literal["batch", "batch_output"]
    """Whether it was uploaded for a batch, or written by one."""
    status: Literal["processed"]
    """Always the same."""


class FileList(Answer):
    """Files."""

    object: Literal["list"]
    """What this is."""
    data: list[StoredFile]
    """The files."""
    first_id: str | None
    """Of the first one here."""
    last_id: str | None
    """Of the last one here: give it as `after` for more."""
    has_more: bool
    """Whether there are more."""


class DeletedFile(Answer):
    """That a file is gone."""

    id: str
    """The file's."""
    object: Literal["file"]
    """What was deleted."""
    deleted: Literal[True]
    """That it is gone."""


class LineError(Answer):
    """What is wrong with an input file."""

    code: str
    """A name for programs."""
    line: int | None
    """Where, counted from 1."""
    message: str
    """In a sentence."""
    param: str | None
    """The field that is wrong."""


class LineErrors(Answer):
    """All that is wrong with an input file."""

    object: Literal["list"]
    """What this is."""
    data: list[LineError]
    """The errors."""


class LineCounts(Answer):
    """How many lines there are."""

    total: int
    """In the input file."""
    completed: int
    """That were answered."""
    failed: int
    """That were answered with an error."""


class ReadDetails(Answer):
    """Of the tokens read."""

    cached_tokens: int
    """Those that were in the prefix cache."""


class WrittenDetails(Answer):
    """Of the tokens generated."""

    reasoning_tokens: int
    """Those that are in no choice."""


class LinesUsage(Answer):
    """What all lines together cost, in tokens."""

    input_tokens: int
    """Read."""
    input_tokens_details: ReadDetails
    """Of those read."""
    output_tokens: int
    """Generated."""
    output_tokens_details: WrittenDetails
    """Of those generated."""
    total_tokens: int
    """Both together."""


class BatchAnswer(Answer):
    """A batch. Times are Unix times in seconds; null: it has not come to that."""

    id: str
    """By which it is found."""
    object: Literal["batch"]
    """What this is."""
    endpoint: str
    """What its lines ask."""
    model: str | None
    """Where all lines name the same."""
    errors: LineErrors | None
    """What is wrong with the input file."""
    input_file_id: str
    """The file with its lines."""
    completion_window: str
    """What is not begun by then ends."""
    status: Status
    """How far it is."""
    output_file_id: str | None
    """The file with the answers."""
    error_file_id: str | None
    """The file with the errors."""
    created_at: int
    """When it was made."""
    in_progress_at: int | None
    """When its input had been read."""
    expires_at: int
    """When its window ends."""
    finalizing_at: int | None
    """When the last line was answered."""
    completed_at: int | None
    """When its files were written."""
    failed_at: int | None
    """When its input was refused."""
    expired_at: int | None
    """When its window had ended."""
    cancelling_at: int | None
    """When it was cancelled."""
    cancelled_at: int | None
    """When no line ran any more."""
    request_counts: LineCounts
    """How many lines there are, were answered, and failed."""
    usage: LinesUsage | None
    """What all lines together cost."""
    metadata: dict[str, str] | None
    """The client's own."""


class BatchList(Answer):
    """Batches, the newest first."""

    object: Literal["list"]
    """What this is."""
    data: list[BatchAnswer]
    """The batches."""
    first_id: str | None
    """Of the first one here."""
    last_id: str | None
    """Of the last one here: give it as `after` for more."""
    has_more: bool
    """Whether there are more."""
