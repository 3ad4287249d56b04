"""Live runs on the scripted engine behind a real socket: what is recorded, and read from it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from loadtests import live
from loadtests.auc import pair_outcomes
from loadtests.live import figures_of, same_choices
from loadtests.live_sets import SETS, Asked, LiveSet
from loadtests.rows import rows_of
from server.engines.scripted import ScriptedEngine
from tests.server.local import local
from verifiers.types import Prompt, Sampling

SMALL = LiveSet(
    {
        "single": Asked({"type": "single"}),
        "auto, n = 8": Asked({"type": "auto", "n": 8}, problems=2),
        "best_of_n, n = 2": Asked(
            {"type": "best_of_n", "n": 2}, lambda each: {"name": "exact", "reference": each.id}
        ),
    },
    problems=3,
    every=2,
)


def hesitant(prompt: Prompt, sampling: Sampling, index: int) -> str:
    """Answer differently by question and sample, so that `auto` has something to choose by."""
    size = len(str(prompt.messages[-1]["content"]))
    return f"Let me see. \\boxed{{{(sampling.first + index) % (1 + size % 3)}}}"


def record(url: str, out: Path) -> list[dict[str, object]]:
    asyncio.run(live.run("small", url, None, out))
    return rows_of(out)


def test_a_set_is_recorded_once_and_counted_by_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SETS", {"small": SMALL})
    monkeypatch.setattr(live, "SETTLED_S", 0.0)
    out = tmp_path / "rows.jsonl"
    engine = ScriptedEngine(hesitant)
    with local(engine, traces=tmp_path / "traces.db") as server:
        rows = record(server.url, out)
        asked = engine.log["started"]
        assert record(server.url, out) == rows
        assert engine.log["started"] == asked
    names = [row["strategy"] for row in rows]
    assert [names.count(name) for name in SMALL.strategies] == [3, 2, 3]
    assert len({row["problem"] for row in rows}) == 3
    for row in rows:
        spent = sum(stage["completion_tokens"] for stage in row["usage"].values())  # type: ignore[attr-defined]
        assert row["engine_tokens"] == spent > 0
    table = figures_of("small", rows)
    assert "| auto, n = 8 | 0 of 2 |" in table
    assert table.count("equal on 3 of 3") == 2
    assert asyncio.run(same_choices(SMALL, rows)).endswith(": 2 of 2.")


def test_another_choice_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SETS", {"small": SMALL})
    monkeypatch.setattr(live, "SETTLED_S", 0.0)
    out = tmp_path / "rows.jsonl"
    with local(ScriptedEngine(hesitant), traces=tmp_path / "traces.db") as server:
        rows = record(server.url, out)
    changed = json.loads(json.dumps(rows).replace('"bin": ', '"bin": 1'))
    assert changed != rows
    assert asyncio.run(same_choices(SMALL, changed)).endswith(": 0 of 2.")


def test_kept_recordings_hold_every_strategy_of_their_set() -> None:
    for name, chosen in SETS.items():
        if rows := rows_of(live.DATA / f"live_{name}.jsonl.gz"):
            found = {row["strategy"] for row in rows}
            assert found == set(chosen.strategies)


def test_pairs_of_right_and_wrong_replies() -> None:
    scores = [0.9, 0.2, None, 0.9]
    assert pair_outcomes(scores, [True, False, False, False]) == [1.0, 1.0, 0.5]
    assert pair_outcomes([None, None], [True, False]) == [0.5]
    assert pair_outcomes([0.1, 0.2], [True, True]) == []
