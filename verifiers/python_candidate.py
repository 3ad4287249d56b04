"""The process of a candidate's code, inside a sandbox: it answers calls, nobody trusts it.

Started by `verifiers.python_referee`, which has the tests. It reads pickles: first what to load,
then one operation after the other, named as in `operator` or `builtins`. It writes JSON lines:
first the names that the code defines, then how each operation ended. Values go back as data of
their own kind; of what is no data, its number goes back, by which later operations name it.
"""

from __future__ import annotations

import builtins
import json
import operator
import os
import pickle
import sys
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import IO, Any

_MOST_DIGITS = 1 << 63
_PAIRS = (tuple, set, frozenset)


class Objects:
    """What the referee may name by a number."""

    def __init__(self) -> None:
        self._held: list[object] = []

    def hold(self, value: object) -> int:
        """Keep an object, and return its number."""
        self._held.append(value)
        return len(self._held) - 1

    def encode(self, value: object) -> Any:
        """Return a value as JSON can hold it; kinds derived from data become that data."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            number = int(value)
            return number if abs(number) < _MOST_DIGITS else {"int": hex(number)}
        if isinstance(value, float):
            return float(value)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, list):
            return [self.encode(each) for each in value]
        if isinstance(value, dict):
            return {"dict": [[self.encode(key), self.encode(of)] for key, of in value.items()]}
        for kind in _PAIRS:
            if isinstance(value, kind):
                return {kind.__name__: [self.encode(each) for each in value]}
        return self._encode_rare(value)

    def _encode_rare(self, value: object) -> Any:
        if isinstance(value, bytes | bytearray):
            return {type(value).__name__: value.hex()}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, Decimal | Fraction):
            return {type(value).__name__: str(value)}
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        return {"object": self.hold(value), "name": type(value).__name__}

    def unpickle(self, requests: IO[bytes]) -> Any:
        """Read what the referee sends."""
        return _Unpickler(requests, self._held).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, requests: IO[bytes], held: list[object]) -> None:
        super().__init__(requests)
        self._held = held

    def persistent_load(self, number: Any) -> object:
        return self._held[number]


def main() -> None:
    """Load the code, then answer until the referee is done."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="ascii")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    objects = Objects()

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    namespace = load(*pickle.load(requests))
    reply({"names": {name: objects.encode(value) for name, value in public(namespace).items()}})
    while True:
        reply(answer(objects, *objects.unpickle(requests)))


def load(prelude: str, code: str) -> dict[str, Any]:
    """Run the code after the prelude, or as its continuation if it cannot stand alone."""
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    namespace = vars(module)
    try:
        compiled = compile(code, "<candidate>", "exec")
    except SyntaxError:
        exec(compile(f"{prelude}\n{code}", "<candidate>", "exec"), namespace)
        return namespace
    exec(compile(prelude, "<prelude>", "exec"), namespace)
    exec(compiled, namespace)
    return namespace


def public(namespace: dict[str, Any]) -> dict[str, Any]:
    """Return what the code defines: modules it imports are none of it."""
    return {
        name: value
        for name, value in namespace.items()
        if not name.startswith("__") and not isinstance(value, ModuleType)
    }


def answer(objects: Objects, name: str, arguments: Any, keywords: Any) -> dict[str, Any]:
    """Do an operation; lists and the like are passed back as it left them."""
    try:
        operation = getattr(operator, name, None) or getattr(builtins, name)
        value = operation(*arguments, **keywords)
        return {"value": objects.encode(value), "after": [_after(objects, a) for a in arguments]}
    except BaseException as error:  # whatever it is, the tests shall see it raised
        kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
        return {"raised": kinds, "message": str(error)}


def _after(objects: Objects, argument: object) -> Any:
    return objects.encode(argument) if isinstance(argument, list | dict | set | bytearray) else None


if __name__ == "__main__":
    main()
