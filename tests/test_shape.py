"""What keeps the code light: what the core imports, and what a strategy's file may hold."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from strategies.base import strategy_classes

HEAVY = ("vllm", "torch", "transformers", "sympy", "trl", "numpy", "opentelemetry", "redis")
PLUMBING = {"asyncio", "logging", "httpx", "time", "contextlib", "fastapi"}


def test_the_core_imports_nothing_heavy() -> None:
    program = (
        "import sys, server.app, server.cli, server.build, server.commands.serve\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", strategy_classes())
def test_a_strategy_holds_its_algorithm_and_no_plumbing(name: str) -> None:
    cls = strategy_classes()[name]
    source = Path(inspect.getfile(cls)).read_text()
    assert inspect.getfile(cls).endswith(f"/{name}.py")
    tree = ast.parse(source)
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert not {each.partition(".")[0] for each in imported} & PLUMBING
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
    others = set(strategy_classes()) - {name}
    assert not {each.removeprefix("strategies.") for each in imported} & others
