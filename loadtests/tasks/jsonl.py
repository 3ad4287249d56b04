"""Problems of one's own, from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loadtests.tasks.base import Problem, Task, conversation


class _Row(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    system: str = ""
    reference: Annotated[str, Field(min_length=1)]
    id: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_question(self) -> _Row:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give one of `prompt` and `messages`")
        if self.messages is not None and self.system:
            raise ValueError("`system` goes with `prompt`; put it into `messages`")
        return self


class JSONL(Task):
    """A file of lines `{"prompt" or "messages", "reference"}`, with `system` and `id` if wanted.

    Without `id`, a problem is called by its line, from 1. References are compared as answers.
    """

    name: ClassVar[str] = "jsonl"
    takes: ClassVar[str] = "the file's path"

    def __init__(self, argument: str = "", seed: int = 0) -> None:
        super().__init__(argument, seed)
        if not argument:
            raise ValueError("name the file: jsonl:PATH")

    def problems(self) -> Sequence[Problem]:
        """Read the file. Raises ValueError that names file and line; OSError."""
        problems: dict[str, Problem] = {}
        for number, line in enumerate(Path(self.argument).read_bytes().splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = _Row.model_validate_json(line)
            except ValidationError as error:
                fault = error.errors()[0]
                place = ".".join(map(str, fault["loc"]))
                reason = f"{place}: {fault['msg']}" if place else fault["msg"]
                raise ValueError(f"{self.argument}, line {number}: {reason}") from error
            name = row.id or str(number)
            if name in problems:
                raise ValueError(f"{self.argument}, line {number}: a second problem {name!r}")
            problems[name] = Problem(name, _messages(row), row.reference)
        if not problems:
            raise ValueError(f"{self.argument}: holds no problem")
        return list(problems.values())


def _messages(row: _Row) -> tuple[dict[str, Any], ...]:
    if row.messages is not None:
        return tuple(row.messages)
    return tuple(dict(message) for message in conversation(row.prompt or "", row.system))
