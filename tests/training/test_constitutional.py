"""Critique and revision: what is asked after what, what is imitated, and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.training.tiny import begin, logged, recipe, write_rows
from training.data import read_rows
from training.methods.constitutional import Constitutional
from training.recipe import Recipe
from training.rows import Conversation, Labelled
from training.run import Run, RunError

STEPS = ("reply", "critique-1", "revision-1", "critique-2", "revision-2")
PRINCIPLES = ("Be kind.", "Be brief.")


def said(model: Path, tmp_path: Path, **tables: Any) -> Recipe:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"Say {i}"} for i in range(12)])
    method = {
        "type": "constitutional",
        "principles": PRINCIPLES,
        "revisions": 2,
        "max_tokens": 8,
        "critique_request": "By {principle}",
        "revision_request": "Anew: {principle}",
    }
    return recipe(model, method, rows, rollouts={"backend": "model"}, **tables)


def written(run: Run, name: str) -> dict[str | None, Labelled]:
    rows = read_rows([run.directory / name / "samples" / "0000.jsonl"], Labelled).rows
    return {row.problem: row for row in rows}


def test_a_reply_is_criticised_and_revised_and_the_revision_imitated(
    brief: Path, tmp_path: Path
) -> None:
    run = begin(said(brief, tmp_path, adapter={"type": "lora", "r": 4}), tmp_path)
    run.recipe.method.train(run)
    reply, critique, revision, second, last = (written(run, name) for name in STEPS)
    assert last
    for problem, row in last.items():
        principle = second[problem].source["principle"]
        assert principle in PRINCIPLES
        question = reply[problem].prompt
        turns = [(each.role, each.content) for each in row.prompt]
        assert row.prompt[:-4] == question
        assert turns[-4:] == [
            ("assistant", revision[problem].reply),
            ("user", f"By {principle}"),
            ("assistant", second[problem].reply),
            ("user", f"Anew: {principle}"),
        ]
        assert critique[problem].prompt[-2].content == reply[problem].reply
    kept = read_rows([run.directory / "kept.jsonl"], Conversation).rows
    assert [each.messages for each in kept] == [
        (*row.prompt[:-4], kept[place].messages[-1])
        for place, row in enumerate(row for row in last.values() if row.label == 1)
    ]
    whole = [row.reply for row in last.values() if row.label == 1]
    assert [each.messages[-1].content for each in kept] == whole
    assert logged(run, "kept") == [len(kept)]
    assert 0 <= logged(run, "changed")[0] <= 1
    assert {row.source["principle"] for row in second.values()} == set(PRINCIPLES)
    assert run.result is not None


def test_what_was_written_is_not_written_again(brief: Path, tmp_path: Path) -> None:
    run = begin(said(brief, tmp_path), tmp_path)
    run.recipe.method.train(run)
    before = {name: written(run, name) for name in STEPS}
    files = [run.directory / name / "samples" / "0000.jsonl" for name in STEPS]
    times = [path.stat().st_mtime_ns for path in files]
    (run.directory / "result.json").unlink()
    again = begin(run.recipe, tmp_path)
    again.recipe.method.train(again)
    assert [path.stat().st_mtime_ns for path in files] == times
    assert {name: written(again, name) for name in STEPS} == before
    assert again.result == run.result


def test_no_whole_revision_is_told(tiny: Path, tmp_path: Path) -> None:
    chosen = said(tiny, tmp_path)
    cut = chosen.method.model_copy(update={"max_tokens": 1})
    run = begin(chosen.model_copy(update={"method": cut}), tmp_path)
    with pytest.raises(RunError, match="none of 12 replies came to a whole revision"):
        cut.train(run)


def test_what_it_refuses(brief: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"says no \{principle\}"):
        Constitutional.model_validate({"critique_request": "What do you think?"})
    with pytest.raises(ValidationError, match="principles"):
        Constitutional.model_validate({"principles": []})
    run = begin(said(brief, tmp_path, rewards=[{"verifier": "math"}]), tmp_path)
    with pytest.raises(RunError, match=r"leave `.*rewards.*` out"):
        run.recipe.method.train(run)
