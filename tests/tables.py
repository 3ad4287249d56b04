"""The tables of the documents, written from the code: names, parameters, lines, measured worth."""

from __future__ import annotations

import ast
import inspect
import io
import json
import tokenize
from collections.abc import Collection, Sequence
from itertools import groupby, takewhile
from pathlib import Path
from statistics import fmean
from typing import get_args

from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel

import training
from loadtests.report import table
from loadtests.worth import KEPT, WIDTH, contenders
from server.metrics import Metrics
from strategies.admission import Admission
from strategies.base import Family, Need, Strategy, strategy_classes
from strategies.session import Session
from training.adapters.base import adapter_classes
from training.base import Family as MethodFamily
from training.base import method_classes
from verifiers.base import Verifier, verifier_classes
from verifiers.discovery import summary

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
STRATEGIES = ROOT / "docs" / "strategies.md"
VERIFIERS = ROOT / "docs" / "verifiers.md"
TRAINING = ROOT / "docs" / "training.md"
OPERATIONS = ROOT / "docs" / "operations.md"
TUTORIAL = ROOT / "strategies" / "README.md"

COMMON_SETTINGS = ("type", "calibration")
"""Of every verifier."""

_NOTHING = {"", "None", "()", "{}"}
_NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    tokenize.ENDMARKER,
}


def tables() -> dict[Path, dict[str, str]]:
    """Return what each document says between its markers."""
    return {
        README: {"strategies": overview(), "verifiers": known_verifiers()},
        VERIFIERS: {"verifiers": verifiers()},
        STRATEGIES: {"strategies": strategies()},
        TRAINING: {"methods": methods(), "adapters": adapters(), "recipes": recipes()},
        OPERATIONS: {"metrics": metrics()},
        TUTORIAL: {"session": session()},
    }


def with_tables(path: Path) -> str:
    """Return a document with its tables written anew."""
    text = path.read_text()
    for name, written in tables()[path].items():
        before, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        assert closing, f"{path}: {name}"
        text = f"{before}{opening}{written}\n{closing}{after}"
    return text


def metrics() -> str:
    """Say what a server counts, and by which labels; not what engines and the process add."""
    registry = Metrics(Admission(), (), {})._registry
    rows = []
    for collector in registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase) and collector._name.startswith("forethought"):
            suffix = {"counter": "_total", "histogram": "_bucket"}.get(collector._type or "", "")
            labels = ", ".join(f"`{name}`" for name in collector._labelnames)
            rows.append([f"`{collector._name}{suffix}`", labels, collector._documentation])
    return table(["metric", "labels", "what it is"], sorted(rows))


def by_family() -> list[tuple[str, str, type[Strategy]]]:
    """Return the strategies by family and name."""
    found = [(cls.family, name, cls) for name, cls in strategy_classes().items()]
    return sorted(found, key=lambda each: (get_args(Family).index(each[0]), each[1]))


def overview() -> str:
    """Say what each strategy does; its family stands in the first row of it."""
    rows = []
    for family, members in groupby(by_family(), key=lambda each: each[0]):
        for place, (_, name, cls) in enumerate(members):
            rows.append(["" if place else family, f"`{name}`", summary(cls)])
    return table(["family", "strategy", "what it does"], rows)


def strategies() -> str:
    """Say all about each strategy."""
    worth = worths()
    head = ["strategy", "family", "what it does", "paper", "parameters", "needs", "lines"]
    rows = []
    for family, name, cls in by_family():
        needed = (f"{each}".replace("_", " ") for each in Need if each in cls().required())
        about = [f"`{name}`", family, summary(cls), cls.paper, parameters(cls), ", ".join(needed)]
        lines = str(code_lines(Path(inspect.getfile(cls))))
        rows.append([*about, lines, *(cells.get(name, "") for cells in worth.values())])
    return table([*head, *worth], rows)


def known_verifiers() -> str:
    """Say what each verifier does."""
    rows = [[f"`{name}`", summary(cls)] for name, cls in verifier_classes().items()]
    return table(["verifier", "what it does"], rows)


def verifiers() -> str:
    """Say all about each verifier."""
    head = ["verifier", "what it does", "paper", "fields of the request", "settings", "kind"]
    rows = []
    for name, cls in verifier_classes().items():
        settings = parameters(cls, leave_out=COMMON_SETTINGS)
        about = [f"`{name}`", summary(cls), cls.paper, parameters(cls.Fields), settings]
        rows.append([*about, kind(cls)])
    return table(head, rows)


def kind(cls: type[Verifier]) -> str:
    """Say what sets a verifier apart, as it is without settings."""
    if any(field.is_required() for field in cls.model_fields.values()):
        return "configured"
    plain = cls()
    words = {
        "asks a model": plain.calls > 0,
        "partial": plain.partial,
        "joint": plain.joint,
    }
    return ", ".join(word for word, holds in words.items() if holds)


def methods() -> str:
    """Say all about each training method."""
    head = ["method", "kind", "what it does", "paper", "rows", "makes", "parameters", "lines"]
    rows = []
    order = get_args(MethodFamily)
    for name, cls in sorted(
        method_classes().items(), key=lambda e: (order.index(e[1].family), e[0])
    ):
        about = [f"`{name}`", cls.family, summary(cls), cls.paper, cls.rows.kind]
        lines = str(code_lines(Path(inspect.getfile(cls))))
        rows.append([*about, cls.makes, parameters(cls), lines])
    return table(head, rows)


def adapters() -> str:
    """Say all about each adapter."""
    head = ["adapter", "what it does", "paper", "served by vLLM as it is", "parameters"]
    rows = [
        [f"`{name}`", summary(cls), cls.paper, "yes" * cls().served, parameters(cls)]
        for name, cls in adapter_classes().items()
    ]
    return table(head, rows)


def recipes() -> str:
    """Say what each recipe that comes along is for: its first sentence."""
    found = sorted((Path(training.__file__).parent / "recipes").glob("*.toml"))
    return table(
        ["recipe", "what it is for"], [[f"`{path.stem}`", _first_sentence(path)] for path in found]
    )


def _first_sentence(path: Path) -> str:
    """Return the first sentence of the comment that a file begins with."""
    comment = takewhile(lambda line: line.startswith("# "), path.read_text().splitlines())
    return " ".join(line[2:] for line in comment).partition(". ")[0].rstrip(".") + "."


def session() -> str:
    """Say what each method of the session does that a strategy may call."""
    rows = []
    layers = reversed(Session.__mro__[:-1])
    for name, member in (item for layer in layers for item in vars(layer).items()):
        if name.startswith("_"):
            continue
        text = inspect.getdoc(member) or ""
        said = " ".join(text.partition("\n\n")[0].split())
        rows.append([f"`{name}`" if isinstance(member, property) else f"`{name}(…)`", said])
    return table(["session", "what it does"], rows)


def parameters(cls: type[BaseModel], leave_out: Collection[str] = ("type",)) -> str:
    """Name the fields of a class with their defaults."""
    told = []
    for attribute, field in cls.model_fields.items():
        name = field.alias or attribute
        if name in leave_out:
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        if field.is_required():
            told.append(f"`{name}` (required)")
        elif str(default) in _NOTHING or "\n" in str(default) or len(str(default)) > 20:
            told.append(f"`{name}`")
        else:
            told.append(f"`{name}` {default}")
    return ", ".join(told)


def code_lines(path: Path) -> int:
    """Count the lines of a file that are neither blank nor docstring nor comment."""
    source = path.read_text()
    counted: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            counted |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            counted -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(counted)


def worths(kept: Path = KEPT) -> dict[str, dict[str, str]]:
    """Return a column per pool: what each strategy was worth there, by name."""
    if not kept.exists():
        return {"on the pools": {}}
    measured = json.loads(kept.read_text())
    types = {each.name: str(each.strategy["type"]) for each in contenders()}
    columns: dict[str, dict[str, str]] = {}
    for title, played in measured["pools"].items():
        lines: dict[str, list[str]] = {}
        for name, rows in played.items():
            if name in types:
                lines.setdefault(types[name], []).append(_worth(name, types[name], rows))
        told = f"{title.rstrip(':')}: right, tokens (n {WIDTH}, {measured['orders']} orders)"
        columns[told] = {name: "<br>".join(cell) for name, cell in lines.items()}
    return columns


def _worth(name: str, kind: str, rows: Sequence[Sequence[float]]) -> str:
    """Write a contender's figures down, after what sets it apart from others of its type."""
    apart = name.removeprefix(kind).strip(" ,")
    right, tokens = (fmean(row[place] for row in rows) for place in (0, 2))
    return f"{apart}: " * bool(apart) + f"{100 * right:.1f} %, {tokens:,.0f}"


def write() -> None:
    """Write all tables anew."""
    for path in tables():
        path.write_text(with_tables(path))
