"""The rule `python_tests`: the reply's code passes the tests that the request gives."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, StringConstraints

from verifiers.base import FieldsClass, RequestFields, Verifier
from verifiers.errors import VerifierError, VerifierUnavailable
from verifiers.sandbox import LocalSandbox, Program, Sandbox
from verifiers.sandbox_command import Limits
from verifiers.sandbox_service import RemoteSandbox
from verifiers.types import Candidate, Capabilities, Powers, Score, Task

_LONGEST = 50_000
_START_SECONDS = 3.0
_FENCED = re.compile(r"^[ \t]*```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.M | re.S)
_STATEMENT = re.compile(
    r"^[ \t]*(?:(?:async[ ]def|def|class|import|from|return|for|while|if|with|print)\b"
    r"|[A-Za-z_]\w*[ ]*=)",
    re.M,
)

Test = Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST)]


class PythonTestsFields(RequestFields):
    """The tests, and how they meet the code."""

    tests: list[Test] = Field(
        min_length=1,
        max_length=64,
        description="Python programs, such as `assert add(1, 2) == 3`. One that runs to its end "
        "has passed. The score is the share that passes.",
    )
    entry_point: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        max_length=200,
        description="The function that the reply is to define. Tests see the reply's even if "
        "`prelude` has one of that name; of several code blocks the last that defines it counts.",
    )
    prelude: str = Field(
        "",
        max_length=_LONGEST,
        description="Code before the reply's, and before the tests: imports, helpers, or the "
        "beginning that the reply goes on with. Its names hide the reply's from the tests.",
    )
    timeout_s: float = Field(5.0, gt=0, le=30, description="Seconds of wall time for each test.")


class PythonTests(Verifier):
    """The share of the request's tests that the reply's code passes, run in a sandbox.

    The code is the last block of the reply fenced as Python or as nothing, else the whole reply; a
    reply without anything like a statement abstains. Only the standard library is there.

    Code and tests run in different processes, which exchange plain data. So exiting early,
    printing, patching, equal-to-everything objects or looking for the tests wins nothing: only
    right answers to the tests' calls do. What is not guarded against: code that knows the test's
    inputs in advance and holds their answers, and tests that let the code judge itself (such as
    comparing two objects of a class that the reply defines).

    What follows for tests: numbers, strings and containers (with complex, Decimal, Fraction, range)
    are passed and compared by value, derived kinds as what they derive from; lists, dicts and sets
    changed by a call are changed for the test; instances of the reply's classes can be used, and
    compared with each other, but never equal a value of the test; functions of the test cannot be
    arguments; exceptions arrive as the nearest kind that is Python's own.
    """

    type: Literal["python_tests"] = "python_tests"
    paper: ClassVar[str] = "Chen et al., Evaluating LLMs Trained on Code, 2107.03374"
    Fields: ClassVar[FieldsClass] = PythonTestsFields

    url: str | None = Field(
        None,
        pattern="^https?://",
        description="Of a `forethought sandbox`; default: bubblewrap on this machine.",
    )
    max_seconds: float = Field(60.0, gt=0, le=600, description="For all tests of a candidate.")
    memory_mebibytes: int = Field(512, ge=64, le=65_536, description="For code and tests together.")
    at_once: int | None = Field(
        None, ge=1, description="Programs at a time; default: as many as there are cores."
    )

    _sandbox: Sandbox | None = PrivateAttr(default=None)
    _reason: str | None = PrivateAttr(default="its sandbox has not been started")

    @property
    def missing(self) -> str | None:
        """Why there is no sandbox, as found when it started; None: there is one."""
        return self._reason

    def unavailable(self, policy: Capabilities, asked: Capabilities) -> str | None:
        """Tell what was found when it started."""
        return super().unavailable(policy, asked) or self.missing

    async def start(self) -> None:
        """Try the sandbox. A service may come later."""
        if self.url is not None:
            self._sandbox, self._reason = RemoteSandbox(self.url), None
            return
        sandbox = LocalSandbox(self.at_once)
        self._sandbox, self._reason = sandbox, await sandbox.unavailable()

    async def check(self) -> None:
        """Ask the service, if there is one; a local sandbox was tried at the start."""
        if self.url is not None and self._sandbox is not None:
            reason = await self._sandbox.unavailable()
            if reason is not None:
                raise VerifierUnavailable(reason)

    async def aclose(self) -> None:
        """Close the connections to the service."""
        if self._sandbox is not None:
            await self._sandbox.aclose()

    async def score(
        self,
        task: Task,
        candidates: Sequence[Candidate],
        powers: Powers,  # noqa: ARG002
    ) -> list[Score]:
        """Run the request's tests."""
        return await self.judge(PythonTestsFields.model_validate(dict(task.fields)), candidates)

    async def judge(
        self, fields: PythonTestsFields, candidates: Sequence[Candidate]
    ) -> list[Score]:
        """Score the share of tests passed; the same code is run once."""
        codes = [
            code_of(candidate.content, fields.entry_point) if candidate.done else None
            for candidate in candidates
        ]
        distinct = dict.fromkeys(code for code in codes if code is not None)
        try:
            async with asyncio.TaskGroup() as tasks:
                running = {
                    code: tasks.create_task(self._share_passed(fields, code)) for code in distinct
                }
        except* VerifierError as failed:
            raise failed.exceptions[0] from None
        return [
            Score(0.0, abstained=True) if code is None else Score(running[code].result())
            for code in codes
        ]

    async def _share_passed(self, fields: PythonTestsFields, code: str) -> float:
        if self._sandbox is None or self._reason is not None:
            raise VerifierUnavailable(self._reason or "its sandbox has not been started")
        seconds = min(self.max_seconds, fields.timeout_s * len(fields.tests)) + _START_SECONDS
        limits = Limits(seconds, self.memory_mebibytes)
        outcome = await self._sandbox.run(_program(fields, code), limits)
        ready, *verdicts = outcome.stdout.splitlines() or [""]
        if ready != "ready":
            raise VerifierError(f"the sandbox ran no test: {outcome.stderr.strip()[:200]}")
        return verdicts.count("passed") / len(fields.tests)


def code_of(reply: str, entry_point: str | None = None) -> str | None:
    """Return the code in a reply; None where there is none."""
    blocks = [match[1] for match in _FENCED.finditer(reply) if match[1].strip()]
    if not blocks:
        return reply if _STATEMENT.search(reply) else None
    if entry_point is not None:
        defines = re.compile(rf"^\s*(?:async\s+def|def|class)\s+{entry_point}\b", re.M)
        blocks = [block for block in blocks if defines.search(block)] or blocks
    return blocks[-1]


def _program(fields: PythonTestsFields, code: str) -> Program:
    sources = files("verifiers")
    job: dict[str, Any] = {
        "prelude": fields.prelude,
        "code": code,
        "entry_point": fields.entry_point,
        "tests": fields.tests,
        "seconds": fields.timeout_s,
        "candidate": sources.joinpath("python_candidate.py").read_text(),
    }
    return Program(sources.joinpath("python_referee.py").read_text(), json.dumps(job))
