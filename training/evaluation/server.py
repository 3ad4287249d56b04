"""The server that an evaluation asks: `forethought serve` as users run it, in a process of its own.

`python -m training.evaluation.server` is that process: it ends with the one that started it, even
if that was killed.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import typer

from loadtests.servers import free_port, serving
from server.commands.serve import serve
from server.configuration import PREFIX
from server.models import child
from server.store.opening import MEMORY
from verifiers.errors import EngineError

PATIENCE_S = 900.0
"""Until it must answer: a model of some GiB takes minutes on a busy machine."""
_LAUNCHED = re.compile(
    "(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|(TORCHELASTIC|ACCELERATE)_.*"
)
"""Variables of `accelerate launch`: the server is none of its processes."""
_KEPT = ("FORETHOUGHT_CACHE", "FORETHOUGHT_CHECKPOINTS")
"""Variables that say where things are, not how they are served."""

Serve: TypeAlias = Callable[[Mapping[str, Any], Path], AbstractContextManager[str]]
"""Serves with settings, and a directory for its files, while a block runs; yields the URL."""


@contextmanager
def served(settings: Mapping[str, Any], directory: Path) -> Iterator[str]:
    """Serve with these settings alone; `server.toml` and `server.log` are written.

    Raises:
        EngineError: it does not start; the message is the end of its log.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config, log, port = directory / "server.toml", directory / "server.log", free_port()
    config.write_text(_toml({"store": MEMORY, **settings}), encoding="utf-8")
    command = [
        *("env", *(f"--unset={name}" for name in os.environ if _is_foreign(name))),
        *(sys.executable, "-m", "training.evaluation.server"),
        *("--config", str(config), "--port", str(port), "--log-level", "warning"),
    ]
    with ExitStack() as stack:
        try:
            server = stack.enter_context(
                serving(command, port, ready="/readyz", log=log, patience=PATIENCE_S)
            )
        except RuntimeError as error:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise EngineError("\n".join([str(error), *lines[-child.TAIL_LINES :]])) from error
        yield server.url


def _is_foreign(name: str) -> bool:
    ours = name.startswith(PREFIX) and name not in _KEPT
    return ours or _LAUNCHED.fullmatch(name) is not None


def _toml(settings: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in settings.items())


def _value(value: Any) -> str:
    """Write a value in TOML: JSON but for tables, which are inline ones here."""
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(key)} = {_value(each)}" for key, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    child.end_with_parent()
    typer.run(serve)
