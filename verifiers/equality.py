"""Whether two answers mean the same, decided where nothing hostile can hang or fill the server.

Symbolic equality is math-verify's (https://github.com/huggingface/Math-Verify). It may not end
(`9**9**9` cannot even be interrupted), so it runs in `verifiers.equality_worker`, in processes of
their own with limited memory, started with the first pair that needs one and killed when late. So
do regular expressions and JSON schemas, which can be as hostile.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from verifiers.canonical import bracketed, split
from verifiers.types import JSONObject

_START_SECONDS = 60.0
_GRACE_SECONDS = 0.5
"""A worker interrupts itself in time; one that is this late cannot and is killed."""
_LONGEST = 300
"""Characters; formulas longer than this are compared by their canonical form only."""

_COMMAND = re.compile(
    r"\\(?:begin|end)\{[A-Za-z]+\}|\\[A-Za-z]+|sqrt|sinh|cosh|tanh|a(?:sin|cos|tan)"
)
_NOT_A_FORMULA = re.compile(r'["\n]|[^\W\d_]{4,}')
_ATOM = re.compile(r"-?[0-9]+(?:/[0-9]+)?|.", re.DOTALL)
"""A number in its canonical form, a choice, a variable: what differs here is not equal."""
_ONLY_LETTERS = re.compile(r"[^\W\d_]{3,}")


class AnswerEquality:
    """The answer-comparison service of a server: implements `verifiers.types.Equivalence`.

    Safe to share between requests of one event loop. A pair that cannot be decided within its
    limit is unequal; so are the pairs that are left when the call's limit has passed.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        pair_seconds: float = 2.0,
        call_seconds: float = 10.0,
        memory_mebibytes: int = 768,
        remembered: int = 8_192,
    ) -> None:
        self._pair_seconds = pair_seconds
        self._call_seconds = call_seconds
        self._pool = [_Worker(memory_mebibytes) for _ in range(workers)]
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        for worker in self._pool:
            self._idle.put_nowait(worker)
        self._verdicts: OrderedDict[bytes, bool] = OrderedDict()
        self._remembered = remembered

    async def start(self) -> None:
        """Start a worker before the first pair needs it: it imports for a second."""
        worker = await self._idle.get()
        try:
            await worker.start()
        finally:
            self._idle.put_nowait(worker)

    async def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Tell for each pair of canonical answers whether they mean the same."""
        verdicts = [cheap_verdict(*pair) for pair in pairs]
        open_pairs = [place for place, verdict in enumerate(verdicts) if verdict is None]
        questions = [("equal", min(pairs[place]), max(pairs[place])) for place in open_pairs]
        for place, verdict in zip(open_pairs, await self._decide(questions), strict=True):
            verdicts[place] = verdict
        return [bool(verdict) for verdict in verdicts]

    async def matches(self, pattern: str, texts: Sequence[str]) -> list[bool]:
        """Tell for each text whether the regular expression is found in it (`re.search`)."""
        return await self._decide([("match", pattern, text) for text in texts])

    async def conforms(self, schema: JSONObject, texts: Sequence[str]) -> list[bool]:
        """Tell for each text whether it is JSON that satisfies the JSON schema.

        A schema that is none, or whose references lead nowhere, is satisfied by nothing.
        """
        document = json.dumps(schema)
        return await self._decide([("conform", document, text) for text in texts])

    async def aclose(self) -> None:
        """Kill the workers."""
        for worker in self._pool:
            await worker.kill()

    async def _decide(self, questions: Sequence[tuple[str, str, str]]) -> list[bool]:
        verdicts: dict[int, bool] = {}
        try:
            async with asyncio.timeout(self._call_seconds):
                for place, question in enumerate(questions):
                    verdicts[place] = await self._verdict(question)
        except TimeoutError:
            pass
        return [verdicts.get(place, False) for place in range(len(questions))]

    async def _verdict(self, question: tuple[str, str, str]) -> bool:
        key = blake2b(json.dumps(question).encode(), digest_size=16).digest()
        known = self._verdicts.get(key)
        if known is not None:
            self._verdicts.move_to_end(key)
            return known
        worker = await self._idle.get()
        try:
            await worker.start()
            verdict = await worker.ask(question, self._pair_seconds)
        finally:
            self._idle.put_nowait(worker)
        if verdict is None:
            return False
        self._verdicts[key] = verdict
        if len(self._verdicts) > self._remembered:
            self._verdicts.popitem(last=False)
        return verdict


class _Worker:
    """One process, started when needed and again after it was killed."""

    def __init__(self, memory_mebibytes: int) -> None:
        self._memory_mebibytes = memory_mebibytes
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        if self._process is not None and self._process.returncode is None:
            return
        root = str(Path(__file__).resolve().parent.parent)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "verifiers.equality_worker", str(self._memory_mebibytes)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": root},
        )
        try:
            if await self._reply(self._process, b"", _START_SECONDS) is None:
                raise RuntimeError("the answer-comparison process does not start")
        except BaseException:
            await self.kill()
            raise

    async def ask(self, question: tuple[str, str, str], seconds: float) -> bool | None:
        """Return the verdict (False: it ran out of time); None if the process had to be killed."""
        assert self._process is not None
        line = json.dumps([*question, seconds]).encode() + b"\n"
        try:
            reply = await self._reply(self._process, line, seconds + _GRACE_SECONDS)
        except BaseException:
            await self.kill()  # what it still may say would be taken for the next verdict
            raise
        if reply is None:
            await self.kill()
            return None
        return reply == b"true\n"

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def _reply(
        self, process: asyncio.subprocess.Process, line: bytes, seconds: float
    ) -> bytes | None:
        """Send a line, return the line that answers it; None if it died or was late."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(line)
                await process.stdin.drain()
                return await process.stdout.readline() or None
        except (TimeoutError, ConnectionError):
            return None


def cheap_verdict(left: str, right: str) -> bool | None:
    """Decide what needs no algebra; None: only a worker can tell."""
    if left == right:
        return True
    if _ATOM.fullmatch(left) and _ATOM.fullmatch(right):
        return False
    if not (formula_like(left) and formula_like(right)):
        return False
    return None if _comparable(bracketed(left), left, bracketed(right), right) else False


def formula_like(text: str) -> bool:
    """Tell whether a canonical answer may be a formula: `stop` and `pots` are not s·t·o·p."""
    if not text or len(text) > _LONGEST or _ONLY_LETTERS.fullmatch(text):
        return False
    return _balanced(text) and not _NOT_A_FORMULA.search(_COMMAND.sub(" ", text))


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def _comparable(left_brackets: str, left: str, right_brackets: str, right: str) -> bool:
    """Tell collections of different kinds apart.

    math-verify takes (1,2) for {1,2} where it can, which would make (1,2) and (2,1) equal, too.
    """
    if left_brackets and right_brackets:
        return left_brackets == right_brackets
    for brackets, other in ((left_brackets, right), (right_brackets, left)):
        if brackets not in ("", "{}") and len(split(other)) > 1:
            return False
    return True
