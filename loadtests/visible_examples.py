"""Examples that a HumanEval prompt shows, as assertions: all that a solver may test itself by."""

from __future__ import annotations

import ast
import re
from itertools import pairwise

_SIGNS = re.compile(r"==>|=>|==|➞|->|=|\breturns\b")
"""How the prompts write "gives", beside Python's own prompt with the result on the next line."""
_WORDS = {"true": "True", "false": "False"}


def visible_examples(prompt: str, entry_point: str) -> list[str]:
    """Return assertions on the function's results; examples that are no Python are left out."""
    docstring = _docstring(prompt, entry_point)
    lines = [line.strip() for line in docstring.splitlines()]
    # Not by `doctest`: the indentation of some of these is wrong.
    found = [(line[4:], below) for line, below in pairwise([*lines, ""]) if line.startswith(">>> ")]
    for line in lines:
        bare = line.removeprefix(">>> ").removeprefix("* ")
        found += [(bare[: sign.start()], bare[sign.end() :]) for sign in _SIGNS.finditer(bare)]
    pairs = [
        (call.strip(), _literal(result)) for call, result in found if _calls(call, entry_point)
    ]
    asserted = [f"assert ({call}) == ({result})" for call, result in pairs if result is not None]
    return list(dict.fromkeys(asserted))


def _docstring(prompt: str, entry_point: str) -> str:
    for node in ast.walk(ast.parse(prompt)):
        if isinstance(node, ast.FunctionDef) and node.name == entry_point:
            return ast.get_docstring(node) or ""
    return ""


def _calls(text: str, entry_point: str) -> bool:
    """Tell whether a text is a call of the function with values, and nothing else."""
    try:
        parsed = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return False
    names = [each.id for each in ast.walk(parsed) if isinstance(each, ast.Name)]
    return isinstance(parsed, ast.Call) and names == [entry_point]


def _literal(text: str) -> str | None:
    """Return the value that a text states, as Python writes it; None where it states none."""
    stated = text.partition("#")[0].strip().rstrip(".;,").strip()
    stated = _WORDS.get(stated, stated)
    try:
        return repr(ast.literal_eval(stated))
    except (SyntaxError, ValueError):
        return None
