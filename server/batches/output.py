"""What a batch leaves: a file of answers, one of errors, and what all of it cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from server.batches.batch import (
    Batch,
    BatchUsage,
    InputDetails,
    OutputDetails,
    RequestCounts,
)
from server.batches.kept import Files
from server.batches.line_work import OK
from server.store.base import Store
from server.store.jobs import Finished
from verifiers.types import JSONObject

_PAGE = 200
"""Results read at once: each may hold many samples."""

_CANCELLED = {
    "cancelled": ("batch_cancelled", "The batch was cancelled before this line was worked."),
    "expired": (
        "batch_expired",
        "The completion window ended before this line could be worked.",
    ),
}


@dataclass(slots=True)
class Tally:
    """What was counted while files were written."""

    answered: int = 0
    failed: int = 0
    usage: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("input", "cached", "output", "reasoning"), 0)
    )

    def add(self, body: JSONObject) -> None:
        """Count an answer, and what it cost."""
        self.answered += 1
        told = body.get("usage") or {}
        output = told.get("completion_tokens_details") or told.get("output_tokens_details") or {}
        prompt = told.get("prompt_tokens_details") or told.get("input_tokens_details") or {}
        for name, value in {
            "input": told.get("prompt_tokens", told.get("input_tokens", 0)),
            "cached": prompt.get("cached_tokens", 0),
            "output": told.get("completion_tokens", told.get("output_tokens", 0)),
            "reasoning": output.get("reasoning_tokens", 0),
        }.items():
            self.usage[name] += value or 0

    @property
    def counts(self) -> RequestCounts:
        """The lines by how they ended."""
        total = self.answered + self.failed
        return RequestCounts(total=total, completed=self.answered, failed=self.failed)

    @property
    def batch_usage(self) -> BatchUsage:
        """The tokens of all answers."""
        spent = self.usage
        return BatchUsage(
            input_tokens=spent["input"],
            input_tokens_details=InputDetails(cached_tokens=spent["cached"]),
            output_tokens=spent["output"],
            output_tokens_details=OutputDetails(reasoning_tokens=spent["reasoning"]),
            total_tokens=spent["input"] + spent["output"],
        )


@dataclass(frozen=True, slots=True)
class Written:
    """The files, where they have a line, and the count of it all."""

    output_file_id: str | None
    error_file_id: str | None
    tally: Tally


async def write_results(store: Store, batch: Batch) -> Written:
    """Write the files of a batch whose lines have all ended; doing it again writes the same."""
    tally = Tally()
    output = await _write(store, batch, "output", _answers(store, batch, tally))
    errors = await _write(store, batch, "error", _errors(store, batch, tally))
    return Written(
        output if tally.answered else None,
        errors if tally.failed else None,
        tally,
    )


async def results_of(store: Store, group: str) -> AsyncIterator[Finished]:
    """Read all that has ended of a group, in its order."""
    after = -1
    while page := await store.jobs.results(group, after=after, limit=_PAGE):
        for each in page:
            yield each
        after = page[-1].position


async def _write(store: Store, batch: Batch, name: str, pieces: AsyncIterator[bytes]) -> str:
    files = Files(store)
    file = await files.write(
        f"file-{batch.id.removeprefix('batch_')}-{name}",
        pieces,
        filename=f"{batch.id}_{name}.jsonl",
        purpose="batch_output",
        owner=batch.owner,
        keep_s=batch.keep_output_s,
    )
    if not file.bytes:
        await files.delete(file.id)
    return file.id


async def _answers(store: Store, batch: Batch, tally: Tally) -> AsyncIterator[bytes]:
    async for each in results_of(store, batch.id):
        if _is_answer(each):
            tally.add(each.result["body"])
            yield _line(batch, each, response=each.result)


async def _errors(store: Store, batch: Batch, tally: Tally) -> AsyncIterator[bytes]:
    async for each in results_of(store, batch.id):
        if _is_answer(each):
            continue
        tally.failed += 1
        if each.status == "done":
            yield _line(batch, each, response=each.result)
        else:
            yield _line(batch, each, error=_reason(batch, each))


def _is_answer(each: Finished) -> bool:
    return each.status == "done" and each.result["status_code"] == OK


def _reason(batch: Batch, each: Finished) -> dict[str, Any]:
    if each.status == "dead":
        return {"code": "attempts_exhausted", "message": each.result["error"]}
    code, message = _CANCELLED[batch.ending or "cancelled"]
    return {"code": code, "message": message}


def _line(
    batch: Batch,
    each: Finished,
    *,
    response: JSONObject | None = None,
    error: JSONObject | None = None,
) -> bytes:
    name = f"batch_req_{batch.id.removeprefix('batch_')}_{each.position}"
    told = {"id": name, "custom_id": each.id, "response": response, "error": error}
    return to_json(told) + b"\n"
