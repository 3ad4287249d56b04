"""Exports of what a real server recorded, and of a pool that is kept with the code."""

import asyncio
import gzip
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from loadtests.pools import POOLS
from server.engines.scripted import ScriptedEngine
from server.traces import TraceStore
from strategies.events import Event, EventKind
from tests.server.local import Local, local
from tests.strategies.tree_engine import TreeEngine
from training.commands.export import export as command
from training.data import DataError, problem_of, question_id, read_rows
from training.export.contamination import Contamination, read_questions
from training.export.kinds import Selection
from training.export.labelling import Labelling
from training.export.pipeline import Order, Report, export
from training.export.progress import report_table
from training.export.verdicts import Evidence
from training.labels import Beginning, Completer
from training.rows import (
    ROWS,
    Conversation,
    Groups,
    Labelled,
    Pair,
    Prompted,
    Ranking,
    Row,
    Stepped,
)
from verifiers.answers import extract
from verifiers.types import Prompt, Sampling

POOL = POOLS / "gsm8k-qwen2.5-coder-0.5b"
SIX = {"role": "user", "content": "What is 6 times 7?"}
TWO = {"role": "user", "content": "What is 1 plus 1?"}
SPOKEN = {
    SIX["content"]: [
        "So \\boxed{42}",
        "It is \\boxed{42}.",
        "No: \\boxed{41}",
        "Hm.",
        "\\boxed{40}",
    ],
    TWO["content"]: [
        "Two: \\boxed{2}",
        "Three: \\boxed{3}",
        "Two: \\boxed{2}",
        "\\boxed{2}",
        "x" * 99,
    ],
}


class Quiet:
    """Nobody is told."""

    def __init__(self) -> None:
        self.works: list[tuple[str, int]] = []
        self.done = 0

    def start(self, work: str, total: int) -> None:
        self.works.append((work, total))

    def advance(self) -> None:
        self.done += 1


def script(prompt: Prompt, sampling: Sampling, index: int) -> str:
    """Say the next of the replies to a question; those end with the question's number of words."""
    said = SPOKEN[str(prompt.messages[-1]["content"])]
    return said[(sampling.first + index) % len(said)]


def ask(server: Local, *messages: dict[str, str], **body: Any) -> str:
    """Send a chat; return its trace's id."""
    response = server.post(messages=list(messages), **body)
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Record: two questions, one with a reference, one with the scores of a pattern."""
    path = tmp_path_factory.mktemp("traces") / "traces.sqlite"
    five = {"type": "best_of_n", "n": 5}
    with local(ScriptedEngine(script), traces=path) as server:
        ask(server, SIX, strategy=five, verifier={"name": "math", "reference": "42"})
        ask(server, TWO, strategy=five, verifier={"name": "regex", "pattern": "^Two"})
        ask(server, TWO, strategy={"type": "self_consistency", "n": 4})
        yield path


def run(kind: str, out: Path, **order: Any) -> Report:
    return export(Order(kind, out, **order), Quiet())


def rows_of(out: Path, kind: str, side: str = "train") -> list[Any]:
    return list(read_rows([out / f"{side}.jsonl.gz"], ROWS[kind], strict=True).rows)


def by_question(rows: Sequence[Row], message: dict[str, str]) -> list[Any]:
    wanted = question_id(Prompted.model_validate({"prompt": message["content"]}).prompt)
    return [row for row in rows if problem_of(row) == wanted]


def test_references_tell_what_is_right(traces: Path, tmp_path: Path) -> None:
    report = run("labels", tmp_path, traces=(traces,))
    rows: list[Labelled] = rows_of(tmp_path, "labels")
    assert {row.reply: row.label for row in rows} == {
        "So \\boxed{42}": 1,
        "It is \\boxed{42}.": 1,
        "No: \\boxed{41}": 0,
        "Hm.": 0,
        "\\boxed{40}": 0,
    }
    assert all(row.reference == "42" and row.source["by"] == "reference" for row in rows)
    assert {row.source["candidate"] for row in rows} == {f"0.0.{i}" for i in range(5)}
    assert report.read == {"traces": 3, "questions": 2, "replies": 14}
    # Of the 9 replies to the other question "Two" was said 4 times, "Three" and the last twice.
    assert report.dropped == {
        "replies: said before": 5,
        "replies: nothing tells": 4,
        "questions: give no labels": 1,
    }


def test_a_verifiers_scores_tell_where_it_is_named(traces: Path, tmp_path: Path) -> None:
    run("labels", tmp_path, traces=(traces,), evidence=Evidence("regex"))
    rows = by_question(rows_of(tmp_path, "labels"), TWO)
    assert {row.reply: row.label for row in rows} == {
        "Two: \\boxed{2}": 1,
        "Three: \\boxed{3}": 0,
        "\\boxed{2}": 0,
        "x" * 99: 0,
    }
    assert {row.source["score"] for row in rows} == {0.0, 1.0}
    assert {(row.source["by"], row.source["verifier"]) for row in rows} == {("score", "regex")}
    run("sft", tmp_path, traces=(traces,), evidence=Evidence("regex", min_score=1.5))
    assert not by_question(rows_of(tmp_path, "sft"), TWO)


def test_the_majority_tells_from_its_share_on(traces: Path, tmp_path: Path) -> None:
    # Of the 9 replies to the question 8 answer, 6 of them 2.
    run("labels", tmp_path, traces=(traces,), evidence=Evidence(min_agreement=0.75))
    rows = by_question(rows_of(tmp_path, "labels"), TWO)
    assert {row.reply: row.label for row in rows} == {
        "Two: \\boxed{2}": 1,
        "Three: \\boxed{3}": 0,
        "\\boxed{2}": 1,
    }
    assert {row.source["by"] for row in rows} == {"majority"}
    run("labels", tmp_path, traces=(traces,), evidence=Evidence(min_agreement=0.76))
    assert not by_question(rows_of(tmp_path, "labels"), TWO)


def test_sft_rows_are_the_right_replies(traces: Path, tmp_path: Path) -> None:
    run("sft", tmp_path, traces=(traces,), evidence=Evidence("regex"))
    rows: list[Conversation] = rows_of(tmp_path, "sft")
    assert sorted(row.messages[-1].content for row in rows) == [
        "It is \\boxed{42}.",
        "So \\boxed{42}",
        "Two: \\boxed{2}",
    ]
    best = run(
        "sft",
        tmp_path,
        traces=(traces,),
        evidence=Evidence("regex"),
        selection=Selection(per_problem=1),
    )
    assert best.written["train"]["rows"] == best.written["train"]["problems"] == 2


def test_pairs_use_each_reply_equally_often(traces: Path, tmp_path: Path) -> None:
    run("pairs", tmp_path, traces=(traces,))
    rows: list[Pair] = rows_of(tmp_path, "pairs")
    assert len(rows) == 2
    assert len({row.chosen for row in rows}) == len({row.rejected for row in rows}) == 2
    assert all(extract(row.chosen) == "42" != extract(row.rejected) for row in rows)
    assert rows[0].source["chosen"]["by"] == "reference"
    run("pairs", tmp_path, traces=(traces,), selection=Selection(per_problem=99))
    rows = rows_of(tmp_path, "pairs")
    assert len({(row.chosen, row.rejected) for row in rows}) == len(rows) == 6


def test_groups_and_rankings(traces: Path, tmp_path: Path) -> None:
    run("groups", tmp_path, traces=(traces,))
    (group,) = rows_of(tmp_path, "groups")
    assert isinstance(group, Groups)
    assert sorted(group.chosen) == ["It is \\boxed{42}.", "So \\boxed{42}"]
    assert len(group.rejected) == 2
    run("rankings", tmp_path, traces=(traces,), evidence=Evidence("regex"))
    rankings: list[Ranking] = rows_of(tmp_path, "rankings")
    assert [len(row.replies) for row in rankings] == [2, 2]
    assert by_question(rankings, TWO)[0].replies[0] == "Two: \\boxed{2}"


def test_prompts_have_a_reference_or_the_majority(traces: Path, tmp_path: Path) -> None:
    run("prompts", tmp_path, traces=(traces,))
    rows: list[Prompted] = rows_of(tmp_path, "prompts")
    (six,), (two,) = by_question(rows, SIX), by_question(rows, TWO)
    assert (six.reference, "agreement" in six.source) == ("42", False)
    assert two.reference == "2"
    assert (two.source["reference"], two.source["agreement"]) == ("majority", 0.75)


#        a1 ── b1 (4)
#      ╱    ╲─ b2 (5)
# root ─ a2 ── b3 (5)
TREE = {"": ["a1", "a2"], "a1": ["b1", "b2"], "a2": ["b3"]}
ENDS = {"b1": "4", "b2": "5", "b3": "5"}
RIGHT = {"name": "math", "reference": "4"}
PATHS = [
    ("a1\n\n", "b1 \\boxed{4}"),
    ("a1\n\n", "b2 \\boxed{5}"),
    ("a2\n\n", "b3 \\boxed{5}"),
]


def test_a_tree_search_tells_what_its_steps_are_worth(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    mcts = {"type": "mcts", "simulations": 8, "children": 2, "value": "rollout"}
    with local(TreeEngine(TREE, ENDS), traces=path) as server:
        ask(server, SIX, strategy=mcts, verifier=RIGHT, seed=1)
    run("steps", tmp_path / "out", traces=(path,))
    rows: list[Stepped] = rows_of(tmp_path / "out", "steps")
    # Six replies ended: a first rollout each from a1 and a2, then the children b1 and b2, b3 twice.
    # So two of the three below a1 are right.
    assert {row.steps: row.labels for row in rows} == dict(
        zip(PATHS, [(2 / 3, 1), (2 / 3, 0), (0, 0)], strict=True)
    )
    assert all(row.source["completions"][0] == 3 for row in rows)
    run("steps", tmp_path / "out", traces=(path,), selection=Selection(hard=True))
    rows = rows_of(tmp_path / "out", "steps")
    assert {row.steps: row.labels for row in rows} == dict(
        zip(PATHS, [(1, 1), (1, 0), (0, 0)], strict=True)
    )


def test_a_reference_tells_of_all_replies_to_the_question(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    with local(TreeEngine(TREE, ENDS), traces=path) as server:
        ask(server, SIX, strategy={"type": "beam", "n": 4, "width": 2}, verifier="logprob", seed=1)
        with pytest.raises(DataError, match="no rows"):
            run("steps", tmp_path / "out", traces=(path,))
        ask(server, SIX, strategy={"type": "best_of_n", "n": 1}, verifier=RIGHT)
    run("steps", tmp_path / "out", traces=(path,))
    rows: list[Stepped] = rows_of(tmp_path / "out", "steps")
    assert {row.steps: row.labels for row in rows} == dict(
        zip(PATHS, [(0.5, 1), (0.5, 0), (0, 0)], strict=True)
    )


def test_steps_are_labelled_anew(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    with local(TreeEngine(TREE, ENDS), traces=path) as server:
        ask(server, SIX, strategy={"type": "best_of_n", "n": 2}, verifier=RIGHT)
        ask(server, TWO, strategy={"type": "best_of_n", "n": 2}, verifier="logprob")
    asked: list[tuple[str, str | None, int]] = []

    @contextmanager
    def completing(rows: Sequence[Prompted]) -> Iterator[Completer]:
        assert [row.reference for row in rows] == ["4", "4"]

        def complete(beginnings: Sequence[Beginning], n: int) -> list[list[bool]]:
            asked.extend((each.text, each.row.reference, n) for each in beginnings)
            return [[each.text == "a1\n\n"] + [False] * (n - 1) for each in beginnings]

        yield complete

    order = Order("steps", tmp_path / "out", (path,), labelling=Labelling("math_shepherd", 4))
    report = export(order, Quiet(), completing)
    rows: list[Stepped] = rows_of(tmp_path / "out", "steps")
    assert {row.steps: row.labels for row in rows} == {PATHS[0]: (0.25, 1), PATHS[2]: (0, 0)}
    assert sorted(asked) == [("a1\n\n", "4", 4), ("a2\n\n", "4", 4)]
    assert {row.source["completions"] for row in rows} == {4}
    assert report.dropped["questions: no reference"] == 1
    assert report.parameters["labelling"] == {"method": "math_shepherd", "n": 4}


def test_process_verifiers_label_steps(tmp_path: Path) -> None:
    """A stored trace of a process verifier, written as the server writes it."""
    path = tmp_path / "traces.sqlite"
    replies = {"0.0.0": "a\n\nb \\boxed{4}", "0.0.1": "c\n\nd\n\ne", "0.0.2": "f\n\ng"}
    scores = {"0.0.0": (0.9, 0.7), "0.0.1": (0.5, 0.25), "0.0.2": ()}
    header = {
        "kind": "chat",
        "model": "m",
        "strategy": "best_of_n",
        "verifier": "prm",
        "verifier_fields": {},
        "messages": [SIX],
        "tools": [],
        "response_format": None,
        "drawn": [{"id": name, "message": None} for name in replies],
    }
    told = [
        (
            EventKind.SAMPLED,
            {
                "id": name,
                "parent": None,
                "stage": "sample",
                "text": text,
                "tokens": 5,
                "mean_logprob": -0.5,
                "finish_reason": "stop",
            },
        )
        for name, text in replies.items()
    ] + [
        (
            EventKind.SCORED,
            {"id": name, "score": 0.6, "steps": steps, "abstained": not steps},
        )
        for name, steps in scores.items()
    ]

    async def save() -> None:
        store = await TraceStore.open(path)
        events = [Event(place, 0.0, kind, data) for place, (kind, data) in enumerate(told)]
        await store.save("t", header, events)
        await store.aclose()

    asyncio.run(save())
    run("steps", tmp_path / "out", traces=(path,), evidence=Evidence("prm"))
    # The second reply has another number of steps than scores, the third has no scores.
    (row,) = rows_of(tmp_path / "out", "steps")
    assert (row.steps, row.labels) == (("a\n\n", "b \\boxed{4}"), (0.9, 0.7))
    assert (row.source["trace"], row.source["steps"]) == ("t", "verifier")


def test_pools_are_judged_by_their_task(tmp_path: Path) -> None:
    order = {"pools": (POOL,), "test_share": 0.2, "seed": 3}
    report = run("pairs", tmp_path / "a", **order, selection=Selection(per_problem=2))
    train, test = (rows_of(tmp_path / "a", "pairs", side) for side in ("train", "test"))
    assert report.written["train"]["rows"] == len(train)
    assert not {row.problem for row in train} & {row.problem for row in test}
    assert all(row.source["chosen"]["by"] == "task" for row in train)
    assert max(len([r for r in train if r.problem == row.problem]) for row in train) == 2
    told = json.loads((tmp_path / "a" / "report.json").read_text())
    assert told["written"] == report.written
    assert told["parameters"]["seed"] == 3
    assert len(told["digests"]) == 2
    # Again gives the same bytes; another seed splits otherwise.
    again = run("pairs", tmp_path / "b", **order, selection=Selection(per_problem=2))
    assert again.written == report.written
    other = run("pairs", tmp_path / "c", **{**order, "seed": 4})
    assert other.written["test"]["sha256"] != report.written["test"]["sha256"]


def test_the_hardest_wrong_replies_come_first(tmp_path: Path) -> None:
    one = Selection(per_problem=1, hardest=True)
    run("pairs", tmp_path, pools=(POOL,), selection=one)
    hardest: dict[str, float] = {}
    with gzip.open(POOL / "samples.jsonl.gz", "rt") as lines:
        for sample in map(json.loads, lines):
            mean = sum(sample["logprobs"]) / len(sample["logprobs"])
            if not sample["correct"]:
                hardest[sample["problem"]] = max(hardest.get(sample["problem"], -9e9), mean)
    with gzip.open(POOL / "samples.jsonl.gz", "rt") as lines:
        means = {
            (each["problem"], each["sample"]): sum(each["logprobs"]) / len(each["logprobs"])
            for each in map(json.loads, lines)
        }
    rows: list[Pair] = rows_of(tmp_path, "pairs")
    assert rows
    for row in rows:
        source = row.source["rejected"]
        assert means[source["problem"], source["sample"]] == hardest[source["problem"]]


def test_what_a_test_asks_is_left_out(traces: Path, tmp_path: Path) -> None:
    exam = tmp_path / "exam.jsonl"
    exam.write_text(json.dumps({"question": "what IS 6 times 7"}) + "\n")
    report = run("prompts", tmp_path / "out", traces=(traces,), against=(exam,))
    assert report.dropped["questions: in a test"] == 1
    assert report.read["test questions"] == 1
    assert not by_question(rows_of(tmp_path / "out", "prompts"), SIX)
    with pytest.raises(DataError, match=r"no rows .* 89 questions: in a test"):
        run("sft", tmp_path / "none", pools=(POOL,), against=(POOL,))


def test_thirteen_words_in_a_row() -> None:
    words = [f"w{number}" for number in range(30)]
    exam = Contamination([" ".join(words)])
    assert " ".join(["so", *words[5:18], "then"]) in exam
    assert " ".join(["so", *words[5:17], "then"]) not in exam
    assert ", ".join(words).upper() + "!" in exam
    assert " ".join(words[:20]) not in Contamination([" ".join(words)], 0)
    assert ", ".join(words) in Contamination([" ".join(words)], 0)


def test_questions_of_tests(tmp_path: Path) -> None:
    path = tmp_path / "exam.jsonl.gz"
    lines: list[Any] = [
        {"question": "a"},
        {"problem": "b"},
        {"prompt": "c"},
        {
            "problem": "7",
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "d"}],
        },
    ]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    assert list(read_questions(path)) == ["a", "b", "c", "d"]
    assert len(set(read_questions(POOL))) == 89
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "a"}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2: has none of"):
        list(read_questions(bad))
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        list(read_questions(tmp_path / "none.jsonl"))


def test_what_cannot_be_a_row_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    tools = [{"type": "function", "function": {"name": "look"}}]
    with local(traces=path) as server:
        ask(server, SIX, tools=tools, tool_choice="required")
        ask(server, SIX, strategy={"type": "self_consistency", "n": 2}, max_completion_tokens=4)
        ask(server, {"role": "system", "content": "s"}, SIX, SIX)
        server.post(
            "/v1/verify",
            messages=[SIX],
            candidates=["42"],
            verifier={"name": "regex", "pattern": "4"},
        )
    with pytest.raises(DataError, match="no rows"):
        run("labels", tmp_path / "out", traces=(path,), evidence=Evidence(min_agreement=0))
    report = run("prompts", tmp_path / "out", traces=(path,))
    assert report.dropped["traces: tools"] == 1
    assert report.dropped["traces: empty or misplaced messages"] == 1
    assert report.dropped["traces: not of a chat"] == 1
    assert report.read["questions"] == 1


def test_files_that_are_no_traces(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a database, but long enough to be looked at as one" * 100)
    newer = tmp_path / "newer.sqlite"
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for path in (text, newer, tmp_path / "none.sqlite"):
        with pytest.raises(DataError, match=path.name):
            run("sft", tmp_path / "out", traces=(path,))
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(DataError, match="not a pool"):
        run("sft", tmp_path / "out", pools=(tmp_path,))


def test_reading_while_a_server_writes(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    with local(ScriptedEngine(script), traces=path) as server:
        for _ in range(3):
            ask(server, TWO, strategy={"type": "self_consistency", "n": 3})
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")  # a writer in the middle of its transaction
        report = run("prompts", tmp_path / "out", traces=(path,))
        writer.execute("ROLLBACK")
        writer.close()
        ask(server, TWO)
        assert report.read["traces"] == 3
        assert run("prompts", tmp_path / "out", traces=(path,)).read["traces"] == 4


def test_a_killed_servers_last_traces_are_read(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    program = f"""
import asyncio, os, signal
from server.traces import TraceStore
async def main():
    store = await TraceStore.open({str(path)!r})
    await store.save("a", {{"kind": "verify"}}, [])
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=False, cwd=os.getcwd())
    assert Path(f"{path}-wal").stat().st_size > 0
    with pytest.raises(DataError, match="1 traces: not of a chat"):
        run("prompts", tmp_path / "out", traces=(path,))


def test_the_command(traces: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    cli = CliRunner()
    done = cli.invoke(
        app,
        ["--kind", "pairs", "--traces", str(traces), "--out", str(tmp_path), "--per-problem", "3"],
    )
    assert done.exit_code == 0, done.output
    assert "pairs of 1 problems in train.jsonl.gz" in done.output
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "report.json",
        "test.jsonl.gz",
        "train.jsonl.gz",
    ]
    wrong = cli.invoke(app, ["--kind", "pairs", "--pool", str(tmp_path), "--out", str(tmp_path)])
    assert wrong.exit_code == 1
    assert "forethought: " in wrong.stderr
    assert "not a pool" in wrong.stderr
    assert cli.invoke(app, ["--kind", "sft", "--out", str(tmp_path)]).exit_code == 2


def test_the_table_says_all_of_the_report() -> None:
    report = Report("sft", {}, read={"traces": 3000}, written={"train": {"rows": 7, "problems": 2}})
    report.dropped["rows: duplicates"] = 5
    console = Console(width=100)
    with console.capture() as shown:
        console.print(report_table(report))
    assert [" ".join(line.split()) for line in shown.get().splitlines()] == [
        "read 3,000 traces",
        "left out 5 rows: duplicates",
        "written 7 sft of 2 problems in train.jsonl.gz",
    ]
