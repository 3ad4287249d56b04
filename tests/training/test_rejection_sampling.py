"""Rejection sampling: which replies are kept, that the model gets better, and resuming."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.tiny import begin, logged, recipe, write_rows
from training.data import problem_of
from training.methods.rejection_sampling import hinting, likeness, select
from training.recipe import Recipe
from training.rows import Labelled, Prompted
from training.run import Run, RunError


def right(reply: str, problem: str = "p") -> Labelled:
    return Labelled.model_validate(
        {"prompt": "q", "problem": problem, "reply": reply, "label": 1, "reference": "7"}
    )


def said(
    tiny: Path, tmp_path: Path, pattern: str = "[aeiou]", prompted: int = 6, **method: Any
) -> Recipe:
    prompts = [{"prompt": f"Say {i}", "reference": str(i)} for i in range(prompted)]
    rows = write_rows(tmp_path / "rows.jsonl", prompts)
    named = {"type": "rejection_sampling", "samples": 12, "max_tokens": 80, "rounds": 2}
    return recipe(
        tiny,
        {**named, "temperature": 1.0, "learning_rate": 1e-2, **method},
        rows,
        training={"max_steps": 24},
        rollouts={"backend": "model"},
        rewards=[{"verifier": "regex", "fields": {"pattern": pattern}}],
    )


def written(run: Run, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.directory / name).read_text().splitlines()]


def files(run: Run) -> dict[str, int]:
    found = run.directory.glob("round-*/**/*.jsonl")
    return {
        str(path.relative_to(run.directory)): path.stat().st_mtime_ns
        for path in found
        if path.name != "log.jsonl"
    }


def test_replies_of_the_same_equations_are_one() -> None:
    first = "First 3 + 4 = 7 apples, then 7*2=14."
    assert likeness(first, "equations") == ("3+4=7", "7*2=14")
    assert likeness("So 3+4 = 7. And 7 * 2 = 14", "equations") == likeness(first, "equations")
    assert likeness("7*2=14 and 3+4=7", "equations") != likeness(first, "equations")
    assert likeness("<<48/2=24>>", "equations") == ("48/2=24",)
    assert likeness("no  equation\n", "equations") == ("no equation",)
    replies = [first, "3 + 4 = 7; 7*2=14", "7 + 7 = 14", "x", " x "]
    rows = [right(reply) for reply in replies]
    assert [row.reply for row in select(rows, "equations", 9)] == [first, "7 + 7 = 14", "x"]
    assert len(select(rows, "text", 9)) == 4
    assert len(select(rows, "all", 9)) == 5
    assert len(select([*rows, right("x", "other")], "all", 2)) == 3


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), max_size=30))
def test_at_most_so_many_distinct_ones_of_a_problem(made: list[tuple[str, str]]) -> None:
    kept = select([right(reply, problem) for problem, reply in made], "text", 2)
    for problem in "ab":
        replies = [row.reply for row in kept if row.problem == problem]
        distinct = {reply for name, reply in made if name == problem}
        assert len(replies) == len(set(replies)) == min(2, len(distinct))


def test_no_reply_makes_it_slow() -> None:
    begun = time.perf_counter()
    likeness("1 + " * 20_000, "equations")
    likeness("1 = " * 20_000, "equations")
    assert time.perf_counter() - begun < 1


def test_a_hint_stands_behind_the_question() -> None:
    row = Prompted.model_validate({"prompt": "3+4?", "reference": "7"})
    told = hinting(row, "It is {reference}; {why}.")
    assert told.prompt[-1].content == "3+4?\n\nIt is 7; {why}."


@pytest.mark.parametrize("begin_at", ["last", "base"])
def test_the_model_gets_better_round_by_round(tiny: Path, tmp_path: Path, begin_at: str) -> None:
    chosen = said(tiny, tmp_path, begin=begin_at)
    run = begin(chosen, tmp_path)
    chosen.method.train(run)
    accuracy = logged(run, "accuracy")
    assert len(accuracy) == len(logged(run, "coverage")) == 2
    assert accuracy[1] > accuracy[0] + 0.2
    assert run.result is not None
    rows = written(run, "round-1/kept.jsonl")
    assert len(rows) == logged(run, "kept")[0]
    assert all(set("aeiou") & set(row["messages"][-1]["content"]) for row in rows)
    assert not list(run.directory.glob("round-1/checkpoint-*"))


def test_what_is_on_the_disk_is_not_drawn_again(tiny: Path, tmp_path: Path) -> None:
    chosen = said(tiny, tmp_path)
    run = begin(chosen, tmp_path)
    chosen.method.train(run)
    before, version = files(run), run.result
    assert {"round-1/samples/0000.jsonl", "round-2/kept.jsonl"} <= before.keys()
    (run.directory / "result.json").unlink()
    again = begin(chosen, tmp_path)
    again_log = again.directory / "log.jsonl"
    lines = again_log.read_text()
    chosen.method.train(again)
    assert (files(again), again.result) == (before, version)
    assert again_log.read_text() == lines


def test_killed_in_the_second_round_it_goes_on_there(tiny: Path, tmp_path: Path) -> None:
    chosen = said(tiny, tmp_path, begin="last")
    whole = begin(chosen, tmp_path / "whole")
    chosen.method.train(whole)
    cut = begin(chosen, tmp_path / "cut")

    class KilledError(Exception):
        pass

    fit, fits = cut.fit, []

    def dying(trainer: Any) -> None:
        fits.append(trainer)
        if len(fits) == 2:
            raise KilledError
        fit(trainer)

    cut.fit = dying  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        chosen.method.train(cut)
    before = files(cut)
    again = begin(chosen, tmp_path / "cut")
    chosen.method.train(again)
    assert files(again) == before
    assert whole.result is not None
    assert again.result is not None
    assert again.result.version == whole.result.version
    assert logged(again, "accuracy") == logged(whole, "accuracy")


def test_unsolved_prompts_are_asked_again_with_the_answer(tiny: Path, tmp_path: Path) -> None:
    hint = "It is {reference}."
    chosen = said(tiny, tmp_path, prompted=16, rounds=1, samples=2, hint=hint)
    run = begin(chosen, tmp_path)
    chosen.method.train(run)
    asked = {problem_of(row) for row in run.rows}
    drawn = written(run, "round-1/hinted/samples/0000.jsonl")
    kept = written(run, "round-1/kept.jsonl")
    solved = {row["problem"] for row in drawn if row["label"] == 1}
    assert drawn
    assert len(solved) == logged(run, "hinted")[0] > 0
    assert solved <= {row["problem"] for row in kept} <= asked
    assert not any("It is" in json.dumps(row) for row in [*drawn, *kept])


def test_a_round_without_a_right_reply_is_told(tiny: Path, tmp_path: Path) -> None:
    chosen = said(tiny, tmp_path, "no such text", rounds=1, samples=1)
    with pytest.raises(RunError, match="round 1: none of 6 replies is right"):
        chosen.method.train(begin(chosen, tmp_path))
