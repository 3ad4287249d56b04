"""The program that runs tests against a candidate's code, inside a sandbox.

It is the sandbox's first process and runs the tests itself. The candidate's code runs in another
process, a new one for each test (`verifiers.python_candidate`), which never sees the tests: a name
that the code defines is here a `Remote`, and using it asks that process. What comes back is data,
read as JSON, and compared here. So the code can answer rightly or wrongly, and nothing else:
whatever it patches, prints, kills or exits is its own. It cannot reach this process: it is another
one, without /proc, `ptrace` and the like (see `verifiers.sandbox_filter`), and cannot be killed
from within as it is process 1.

Reads one JSON object, `prelude`, `code`, `entry_point`, `tests`, `seconds` (of each test) and
`candidate` (the source of that module), from stdin. Writes `ready`, then a line per test: `passed`
or `failed`.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from fractions import Fraction
from types import FrameType, ModuleType
from typing import Any

_DECODERS: dict[str, Callable[[Any], object]] = {
    "int": lambda digits: int(digits, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda parts: complex(*parts),
    "Decimal": Decimal,
    "Fraction": Fraction,
    "range": lambda parts: range(*parts),
}
_GATHERED: dict[str, Callable[[Any], object]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


class CannotGoOn(BaseException):
    """The test took too long, or the candidate's process is gone or talks nonsense.

    Not an Exception, which tests catch.
    """


class Candidate:
    """A process with the candidate's code; it is asked one thing at a time."""

    def __init__(self, program: str) -> None:
        self.names: dict[str, Any] = {}
        self.failed = False
        """Set for good: a test that catches everything does not pass by it."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def load(self, prelude: str, code: str) -> None:
        """Let it run the code, and learn which names that defines."""
        with self._trouble():
            self._send(pickle.dumps((prelude, code)))
            names = self._receive()["names"]
            self.names = {str(name): self._decode(value) for name, value in names.items()}

    def ask(self, operation: str, *arguments: Any, **keywords: Any) -> Any:
        """Do something over there; raise here what it raises there."""
        written = io.BytesIO()
        _Pickler(written).dump((operation, arguments, keywords))
        with self._trouble():
            self._send(written.getvalue())
            reply = self._receive()
            raised = _exception(reply["raised"], reply["message"]) if "raised" in reply else None
            if raised is None:
                for argument, after in zip(arguments, reply["after"], strict=True):
                    _become(argument, self._decode(after))
                value = self._decode(reply["value"])
        if raised is not None:
            raise raised
        return value

    def end(self) -> None:
        """Close the pipes: the process is dead."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def late(self, _signal: int, _frame: FrameType | None) -> None:
        """End the test: its time is over."""
        self.failed = True
        raise CannotGoOn

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except (*_UNREADABLE, MemoryError, OSError):
            self.failed = True
            raise CannotGoOn from None

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def _decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._decode(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "object" in value:
            return Remote(self, int(value["object"]))
        [(kind, held)] = value.items()
        if kind == "dict":
            return {self._decode(key): self._decode(of) for key, of in held}
        if kind in _GATHERED:
            return _GATHERED[kind](self._decode(each) for each in held)
        return _DECODERS[kind](held)


class Remote:
    """An object of the candidate's process: a function, a class, an instance, an iterator.

    Comparing it and computing with values of the tests is never asked over there, where the answer
    could be made to fit: only two such objects can be held against each other.
    """

    def __init__(self, candidate: Candidate, number: int) -> None:
        vars(self).update(_candidate=candidate, _number=number)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call it over there, where arguments are copies."""
        return self._candidate.ask("call", self, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return self._candidate.ask("getattr", self, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._candidate.ask("eq", self, other) is True

    def __instancecheck__(self, instance: object) -> bool:
        if not isinstance(instance, Remote):
            return False
        return self._candidate.ask("isinstance", instance, self) is True

    def __enter__(self) -> Any:
        return self.__getattr__("__enter__")()

    def __exit__(self, *error: object) -> Any:
        return self.__getattr__("__exit__")(None, None, None)


class _Pickler(pickle.Pickler):
    def persistent_id(self, thing: Any) -> int | None:
        return vars(thing)["_number"] if type(thing) is Remote else None


def _asking(operation: str) -> Callable[..., Any]:
    return lambda self, *arguments: self._candidate.ask(operation, self, *arguments)


def _asking_of_two(operation: str) -> Callable[..., Any]:
    return lambda self, other: (
        self._candidate.ask(operation, self, other) if isinstance(other, Remote) else NotImplemented
    )


for _name in ("iter", "next", "reversed", "len", "getitem", "setitem", "delitem", "setattr"):
    setattr(Remote, f"__{_name}__", _asking(_name))
for _name in ("str", "repr", "bool", "int", "float", "hash", "neg", "abs"):
    setattr(Remote, f"__{_name}__", _asking(_name))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lt", "le", "gt", "ge"):
    setattr(Remote, f"__{_name}__", _asking_of_two(_name))


def _become(argument: Any, after: Any) -> None:
    """Let a container of the tests hold what the call left in the candidate's copy."""
    if not isinstance(argument, list | dict | set | bytearray) or argument == after:
        return
    argument.clear()
    argument.extend(after) if isinstance(argument, list | bytearray) else argument.update(after)


def _exception(kinds: list[str], message: str) -> BaseException:
    """Return the exception, as the nearest of its kinds that is Python's own."""
    for name in kinds:
        kind = vars(builtins).get(name)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            return kind.__new__(kind, str(message))
    raise ValueError("that is no exception")


def passes(job: dict[str, Any], test: str) -> bool:
    """Run one test with a process of the candidate's code; True if it ran to its end."""
    candidate = Candidate(job["candidate"])
    signal.signal(signal.SIGALRM, candidate.late)
    try:
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        candidate.load(job["prelude"], job["code"])
        module = ModuleType("__main__")
        sys.modules["__main__"] = module  # where pickle looks for the prelude's classes
        namespace = vars(module)
        exec(compile(job["prelude"], "<prelude>", "exec"), namespace)
        namespace.update(_seen(candidate.names, namespace, job["entry_point"]))
        exec(compile(test, "<test>", "exec"), namespace)
    except BaseException:  # whatever ends a test early, it has not passed
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _kill_all_others()
        candidate.end()
    return not candidate.failed


def _seen(
    names: dict[str, Any], prelude: dict[str, Any], entry_point: str | None
) -> dict[str, Any]:
    """Return what tests see of the code: it cannot hide Python's own names and the prelude's."""
    return {
        name: value
        for name, value in names.items()
        if name == entry_point or not (name in prelude or hasattr(builtins, name))
    }


def _kill_all_others() -> None:
    """End every process of the sandbox but this first one."""
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def main() -> None:
    """Run the tests."""
    if os.getpid() != 1:
        sys.exit("this kills every other process: it runs in a sandbox only")
    verdicts = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what tests print is no verdict
    job = json.load(sys.stdin)
    print("ready", file=verdicts, flush=True)
    for test in job["tests"]:
        print("passed" if passes(job, test) else "failed", file=verdicts, flush=True)


if __name__ == "__main__":
    main()
