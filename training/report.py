"""The report of a run: one HTML file with its curves, what was read, what came of it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from server.checkpoints.evaluation import Evaluation, read_evaluation
from training.curves import plot_log, read_log

REPORT, CURVES = "report.html", "curves.png"
_TEMPLATE = Path(__file__).with_name("report.html")
_FIRST_FAULTS = 20


def write_report(directory: Path) -> Path:
    """Write `report.html` and `curves.png` from what is in a run's directory; return the first.

    A run that has not ended, or ended badly, is reported as far as it came.
    """
    recipe = _read(directory / "recipe.json") or {}
    log = read_log(directory / "log.jsonl")
    drawn = plot_log(log, directory / CURVES)
    evaluation = read_evaluation(directory / "evaluation" / "evaluation.json")
    result = _read(directory / "result.json")
    page = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=escape(str(recipe.get("name", directory.name))),
        state=_state(log, result),
        curves=_image(directory / CURVES) if drawn else "",
        evaluation="" if evaluation is None else _section("Evaluation", _figures(evaluation)),
        checkpoint="" if result is None else _section("Checkpoint", _made(recipe, result)),
        data=_data(_read(directory / "data.json"), recipe),
        recipe=escape(json.dumps(recipe, indent=2, ensure_ascii=False)),
    )
    path = directory / REPORT
    path.write_text(page, encoding="utf-8")
    return path


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _state(log: Mapping[str, Mapping[int, float]], result: Mapping[str, Any] | None) -> str:
    """Say how far the run came."""
    steps = max((max(curve) for curve in log.values() if curve), default=0)
    told, broken = f"{steps} steps", _diverged(log)
    if result is not None:
        return f'<p class="state">{told}; finished</p>'
    if broken is not None:
        step, name = broken
        return f'<p class="state bad">{told}; diverged: at step {step}, {name} is no number</p>'
    return f'<p class="state">{told}; no checkpoint yet</p>'


def _diverged(log: Mapping[str, Mapping[int, float]]) -> tuple[int, str] | None:
    for name in ("loss", "grad_norm"):
        for step, value in log.get(name, {}).items():
            if not math.isfinite(value):
                return step, name
    return None


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="What was logged, by step">'


def _section(title: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>\n" for name, value in rows
    )
    return f"<h2>{title}</h2>\n<table>\n{lines}</table>"


def _figures(evaluation: Evaluation) -> Iterable[tuple[str, str]]:
    yield "checkpoint", evaluation.checkpoint
    yield "parent", evaluation.parent
    yield "task", f"{evaluation.task}, {evaluation.problems} problems, {evaluation.samples} each"
    yield "strategy", json.dumps(dict(evaluation.strategy))
    yield "gain", f"{evaluation.figures}; the bar is {evaluation.bar * 100:+.1f}"
    for name, measure in evaluation.measures.items():
        yield (
            name.replace("_", " "),
            f"{measure.mean:.4g} ({measure.low:.4g} to {measure.high:.4g})",
        )
    yield "at", f"{evaluation.created_at:%Y-%m-%d %H:%M} UTC"


def _made(recipe: Mapping[str, Any], result: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield "name", f"{result['name']}@{result['version']}"
    yield "trained from", str(recipe.get("model", ""))
    yield "method", str(recipe.get("method", {}).get("type", ""))
    if adapter := recipe.get("adapter"):
        yield "adapter", json.dumps(adapter)


def _data(read: Mapping[str, Any] | None, recipe: Mapping[str, Any]) -> str:
    if read is None:
        said = recipe.get("data", {})
        return _section("Data", ((name, json.dumps(value)) for name, value in said.items()))
    rows = [("rows", str(read["rows"]))]
    rows += [(f"left out: {kind}", str(count)) for kind, count in read["left_out"].items()]
    rows += [(name, f"sha256 {digest}") for name, digest in read["files"].items()]
    rows += [("fault", fault) for fault in read["faults"][:_FIRST_FAULTS]]
    return _section("Data", rows)
