"""Verifiers over recorded replies and step scores under load, on the scripted engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from loadtests import judging, step_scores
from loadtests.rows import rows_of
from server.engines.scripted import ScriptedEngine
from tests.server.local import local
from verifiers.types import Prompt, Sampling


def labels(prompt: Prompt, sampling: Sampling, index: int) -> str:
    """Answer every verifier's question with a label that it reads."""
    said = str(prompt.messages[-1]["content"])
    if "digit" in said:
        return str(len(said) % 10)
    return "Yes" if "Yes" in said else "A"


def test_every_verifier_is_asked_once(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    engine = ScriptedEngine(labels)
    with local(engine) as server:
        asyncio.run(judging.record(server.url, 2, 8, out))
        asked = engine.log["started"]
        asyncio.run(judging.record(server.url, 2, 8, out))
        assert engine.log["started"] == asked > 0
    rows = rows_of(out)
    assert len(rows) == 2 * len(judging.VERIFIERS)
    assert all(0 < sum(row["correct"]) < 8 == len(row["scores"]) for row in rows)
    for row in rows:
        assert any(score is not None for score in row["scores"]), row["verifier"]
        assert (row["usage"]["completion_tokens"] > 0) == (row["verifier"] != "agreement")
    table = judging.figures_of(rows)
    assert table.count("\n") == 1 + len(judging.VERIFIERS)


def test_three_ways_to_score_the_same_replies() -> None:
    requests = step_scores.bodies()
    assert [len(each["candidates"]) for each in requests] == [step_scores.REPLIES] * 8
    assert len(step_scores.singly(requests)) == 64
    one, other = (step_scores.marked(requests)[0]["messages"][0]["content"] for _ in range(2))
    assert one != other
    plus = ScriptedEngine(lambda *_: "+")
    with local(plus) as server:

        async def ask() -> list[float]:
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
                return await step_scores.at_once(client, requests[:2])

        assert len(asyncio.run(ask())) == 2
    rounds = [{"singly": [1.0] * 64, "in turn": [4.0] * 8, "at once": [10.0, 16.0] * 4}]
    lines = step_scores.figures_of({"rounds": rounds}).splitlines()[2:]
    assert [line.split("|")[2:4] for line in lines] == [
        [" 1.00 ", " 1.00 "],
        [" 2.00 ", " 2.00 "],
        [" 4.00 ", " 4.00 "],
    ]
