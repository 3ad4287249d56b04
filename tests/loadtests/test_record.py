"""The recorder against a real upstream and the real server: nothing lost, nothing asked twice."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from loadtests.bench import app
from loadtests.endpoint import Endpoint, token_lengths
from loadtests.grading import Grader
from loadtests.pools import (
    POOLS,
    Manifest,
    Pool,
    Sample,
    append,
    joined,
    open_pool,
    read_rows,
    write_manifest,
)
from loadtests.record import SAMPLING, Outcome, Recorder, choose, found
from loadtests.tasks.base import Problem, conversation
from loadtests.tasks.discovery import task_named
from server.engines.scripted import ScriptedEngine
from server.settings import BudgetDefaults
from tests.server.local import local
from tests.server.serving import FORETHOUGHT, environment
from tests.stub_upstream import Fault, Stub, running_stub
from verifiers.answers import extract
from verifiers.canonical import canonical
from verifiers.equality import AnswerEquality
from verifiers.types import sample_seed


class Silent:
    """Counts what a progress bar would show."""

    def __init__(self) -> None:
        self.rows = self.tokens = 0
        self.warnings: list[str] = []

    def advance(self, rows: int, tokens: int) -> None:
        self.rows += rows
        self.tokens += tokens

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def a_manifest(problems: int = 3, samples: int = 4, model: str = "stub") -> Manifest:
    task = task_named("gsm8k")
    # The stub, like older servers, knows the older name of the cap only.
    sampling = {**SAMPLING, "max_tokens": 200}
    return Manifest(task.spec, model, samples, sampling, choose(task.problems(), problems, 0))


async def recorded(
    out: Path,
    url: str,
    manifest: Manifest | None = None,
    *,
    concurrency: int = 4,
    progress: Silent | None = None,
) -> Outcome:
    manifest = manifest or a_manifest()
    found(out, manifest)
    equality = AnswerEquality()
    grader = Grader(task_named(manifest.task, manifest.seed), manifest.problems, equality)
    try:
        async with Endpoint(url, first_pause=0.01) as endpoint:
            recorder = Recorder(
                out, manifest, endpoint, grader, progress or Silent(), concurrency=concurrency
            )
            return await recorder.run()
    finally:
        await equality.aclose()


@pytest.fixture
def stub() -> Iterator[Stub]:
    with running_stub() as running:
        yield running


def asked(stub: Stub) -> list[dict[str, Any]]:
    return [dict(record.body) for record in stub.records]


async def test_rows_hold_what_the_endpoint_said(tmp_path: Path, stub: Stub) -> None:
    progress = Silent()
    outcome = await recorded(tmp_path, stub.base_url, progress=progress)
    assert outcome == Outcome(written=12)
    pool = open_pool(tmp_path)
    assert len(pool.recorded) == 3
    assert progress.rows == len(pool.rows) == 12
    assert progress.tokens == stub.tokens == sum(row.completion_tokens for row in pool.rows)
    references = {problem.id: problem.reference for problem in pool.manifest.problems}
    for row in pool.rows:
        assert sum(row.lengths) == len(row.text)
        assert len(row.lengths) == len(row.logprobs) == row.completion_tokens
        # The stub's alternatives are at −1 + chance, −2, −3, …
        for logprob, confidence in zip(row.logprobs, row.confidence, strict=True):
            assert confidence == round(-(logprob + sum(-1.0 - r for r in range(1, 20))) / 20, 2)
        answer = canonical(extract(row.text) or "")
        assert row.answer == answer
        assert row.correct is row.lenient is (answer == references[row.problem])
        assert row.seconds is not None
        assert row.seconds >= 0


async def test_the_request_is_the_plain_sampler_with_a_seed_of_its_own(
    tmp_path: Path, stub: Stub
) -> None:
    manifest = replace(a_manifest(2, 2), sampling=SAMPLING)
    await recorded(tmp_path, stub.base_url, manifest, concurrency=1)
    bodies = asked(stub)
    order = [(problem, number) for problem in manifest.problems for number in range(2)]
    for body, (problem, number) in zip(bodies, order, strict=True):
        assert body == {
            "model": "stub",
            "messages": list(problem.messages),
            "temperature": 0.8,
            "top_p": 1.0,
            "top_k": 0,
            "repetition_penalty": 1.0,
            "max_completion_tokens": 320,
            "seed": sample_seed(0, f"gsm8k/{problem.id}/{number}") >> 10,
            "logprobs": True,
            "top_logprobs": 20,
        }
        assert body["seed"] < 2**53
    assert {row.seed for row in read_rows(tmp_path)} == {body["seed"] for body in bodies}


async def test_our_own_server_is_asked_within_a_budget(tmp_path: Path) -> None:
    manifest = replace(a_manifest(model="scripted"), sampling=SAMPLING)
    engine = ScriptedEngine()
    # Without a budget of its own, every request would end at 16 tokens.
    with local(engine, budget=BudgetDefaults(max_tokens=16)) as server:
        assert await recorded(tmp_path, f"{server.url}/v1/", manifest) == Outcome(written=12)
    rows = list(read_rows(tmp_path))
    assert engine.log["finished"] == 12
    assert {row.finish_reason for row in rows} == {"stop"}
    assert sum(row.completion_tokens for row in rows) == engine.log["tokens"]
    assert all(sum(row.lengths) == len(row.text) for row in rows)
    assert all(len(row.confidence) == row.completion_tokens for row in rows)


async def test_what_is_recorded_is_not_asked_again(tmp_path: Path, stub: Stub) -> None:
    await recorded(tmp_path, stub.base_url)
    before = open_pool(tmp_path)
    assert await recorded(tmp_path, stub.base_url) == Outcome()
    assert len(stub.records) == 12
    assert open_pool(tmp_path) == before


async def test_a_torn_shard_costs_its_last_rows_only(tmp_path: Path, stub: Stub) -> None:
    await recorded(tmp_path, stub.base_url, a_manifest(10, 4))
    whole = set(read_rows(tmp_path))
    assert len(whole) == 40
    (shard,) = tmp_path.glob("*.jsonl.gz")
    data = shard.read_bytes()
    shard.write_bytes(data[:-9])
    kept = set(read_rows(tmp_path))
    assert 0 < len(kept) < 40
    outcome = await recorded(tmp_path, stub.base_url, a_manifest(10, 4))
    assert outcome.written == 40 - len(kept)
    assert shard.read_bytes() == data[:-9], "shards are never changed"
    again = list(read_rows(tmp_path))
    assert len(again) == 40
    assert {replace(row, seconds=None) for row in again} == {
        replace(row, seconds=None) for row in whole
    }


async def test_passing_failures_are_asked_again(tmp_path: Path, stub: Stub) -> None:
    stub.faults.extend(
        [
            Fault(status=503),
            Fault(body=b"<html>", headers={"content-type": "text/html"}),
            Fault(body=b'{"choices": []}'),
            Fault(disconnect_after=0),
            Fault(status=429),
        ]
    )
    progress = Silent()
    assert await recorded(tmp_path, stub.base_url, progress=progress) == Outcome(written=12)
    assert len(stub.records) == 12 + 5
    assert not progress.warnings


async def test_a_lasting_failure_costs_one_sample_and_is_reported(
    tmp_path: Path, stub: Stub
) -> None:
    stub.faults.extend([Fault(), Fault(), *[Fault(status=500)] * 5])
    progress = Silent()
    outcome = await recorded(tmp_path, stub.base_url, concurrency=1, progress=progress)
    first = a_manifest().problems[0].id
    assert outcome == Outcome(written=11, failed=[(first, 2)])
    assert progress.warnings[0].startswith(f"problem {first}, sample 2: status 500: ")
    assert await recorded(tmp_path, stub.base_url) == Outcome(written=1)
    assert len(open_pool(tmp_path).recorded) == 3


async def test_a_refusal_is_not_repeated(tmp_path: Path, stub: Stub) -> None:
    manifest = replace(a_manifest(1, 1), model="nobody")
    progress = Silent()
    outcome = await recorded(tmp_path, stub.base_url, manifest, progress=progress)
    assert len(outcome.failed) == 1
    assert "`nobody` does not exist" in progress.warnings[0]
    assert len(stub.records) == 1


async def test_an_endpoint_that_only_fails_is_given_up(tmp_path: Path, stub: Stub) -> None:
    manifest = replace(a_manifest(20, 4), model="nobody")
    outcome = await recorded(tmp_path, stub.base_url, manifest, concurrency=2)
    assert outcome.gave_up
    assert len(stub.records) < 10
    assert not outcome.written


async def test_an_endpoint_without_logprobs_is_recorded_without(tmp_path: Path) -> None:
    with running_stub(logprobs=False) as stub:
        stub.faults.append(Fault(status=400))
        assert await recorded(tmp_path, stub.base_url, concurrency=1) == Outcome(written=12)
    assert [("logprobs" in body) for body in asked(stub)] == [False] * 13
    for row in read_rows(tmp_path):
        assert row.logprobs == row.confidence == row.lengths == ()
        assert row.text


async def test_a_refusal_after_the_first_answer_does_not_drop_logprobs(
    tmp_path: Path, stub: Stub
) -> None:
    stub.faults.extend([Fault(), Fault(status=400)])
    outcome = await recorded(tmp_path, stub.base_url, concurrency=1)
    assert len(outcome.failed) == 1
    assert all(row.logprobs for row in read_rows(tmp_path))


async def test_a_signal_ends_the_run_and_keeps_all_answers(tmp_path: Path) -> None:
    with running_stub(interval=0.01) as stub:
        running = asyncio.create_task(recorded(tmp_path, stub.base_url, a_manifest(10, 4)))
        while sum(record.finished is not None for record in stub.records) < 6:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        outcome = await running
        answered = sum(record.finished is not None for record in stub.records)
        assert outcome.interrupted
        assert 6 <= outcome.written <= answered < 40
        assert len(list(read_rows(tmp_path))) == outcome.written
        deadline = time.monotonic() + 5
        while stub.running and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert stub.running == 0, "requests in flight are aborted"
        stub.interval = 0
        outcome = await recorded(tmp_path, stub.base_url, a_manifest(10, 4))
    assert not outcome.interrupted
    assert len(open_pool(tmp_path).recorded) == 10
    assert len({(row.problem, row.sample) for row in read_rows(tmp_path)}) == 40


async def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    with running_stub(interval=0.02) as stub:
        running = asyncio.create_task(recorded(tmp_path, stub.base_url))
        while not stub.records:
            await asyncio.sleep(0.01)
        with pytest.raises(ValueError, match="being recorded by another"):
            await recorded(tmp_path, stub.base_url)
        assert (await running).written == 12


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", "math500"),
        ("model", "another"),
        ("samples", 5),
        ("sampling", {"temperature": 1}),
        ("seed", 1),
        ("problems", a_manifest(2).problems),
    ],
)
def test_a_pool_is_not_mixed(tmp_path: Path, name: str, value: Any) -> None:
    found(tmp_path, a_manifest())
    with pytest.raises(ValueError, match=f"another `{name}`: .* there, .* now"):
        found(tmp_path, replace(a_manifest(), **{name: value}))
    found(tmp_path, replace(a_manifest(), note="a note may differ"))


def test_joined_pools_have_every_problem_once() -> None:
    names = ("gsm8k-qwen2.5-coder-0.5b", "verifiers/gsm8k-unseen-qwen2.5-coder-0.5b")
    old, new = (open_pool(POOLS / name) for name in names)
    both = joined([old, new])
    assert both.name == " + ".join(Path(name).name for name in names)
    assert both.manifest.samples == 8
    ids = [each.problem.id for each in both.recorded]
    assert len(ids) == len(set(ids)) == len({*_ids(old), *_ids(new)}) > 100
    first = {each.problem.id: each for each in both.recorded}[_ids(old)[0]]
    assert first.samples == old.recorded[0].samples[:8]
    with pytest.raises(ValueError, match="differ in model"):
        joined([old, open_pool(POOLS / "gsm8k-qwen2.5-coder-1.5b")])


def _ids(pool: Pool) -> list[str]:
    return [each.problem.id for each in pool.recorded]


PROBLEMS = [Problem(str(i), conversation(f"{i}?"), str(i)) for i in range(50, 80)]


@given(
    st.integers(1, 30),
    st.integers(0, 5),
    st.lists(st.sampled_from([problem.id for problem in PROBLEMS]), unique=True),
)
def test_a_choice_begins_as_told_and_goes_on_in_order(
    count: int, seed: int, first: list[str]
) -> None:
    chosen = [problem.id for problem in choose(PROBLEMS, count, seed, first)]
    assert len(set(chosen)) == len(chosen) == count
    begun = min(count, len(first))
    assert chosen[:begun] == first[:begun]
    assert chosen[begun:] == sorted(chosen[begun:], key=int)
    assert chosen == [problem.id for problem in choose(PROBLEMS, count, seed, first)]


def test_a_choice_is_the_documented_draw() -> None:
    drawn = sorted(random.Random(7).sample(range(30), 4))
    assert choose(PROBLEMS, 4, 7) == tuple(PROBLEMS[i] for i in drawn)
    assert choose(PROBLEMS, None, 7) == tuple(PROBLEMS)
    with pytest.raises(ValueError, match="has 30 problems, not 31"):
        choose(PROBLEMS, 31, 0)
    with pytest.raises(ValueError, match="no problem '7'"):
        choose(PROBLEMS, 3, 0, ["50", "7"])


@pytest.mark.parametrize(
    ("tokens", "text", "lengths"),
    [
        (["so", " it", " is"], "so it is", (2, 3, 3)),
        (["so", " it", "<|im_end|>"], "so it", (2, 3, 0)),
        (["so", "�", "�"], "soé", ()),
        ([], "so", ()),
        ([], "", ()),
    ],
)
def test_lengths_add_up_or_are_left_out(
    tokens: list[str], text: str, lengths: tuple[int, ...]
) -> None:
    assert token_lengths(tokens, text) == lengths


def bench(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.output


def options(stub: Stub, out: Path, *more: str) -> list[str]:
    return [
        *("record", "--task", "gsm8k", "--model", "stub", "--url", stub.base_url),
        *("--out", str(out), "--set", "max_tokens=200", *more),
    ]


def test_the_command_records_goes_on_and_tells(tmp_path: Path, stub: Stub) -> None:
    out, like = tmp_path / "pool", tmp_path / "like"
    write_manifest(like, replace(a_manifest(2), samples=1))
    few = ["--samples", "2", "--problems", "3", "--like", str(like), "--set", "top_k=null"]
    code, said = bench(*options(stub, out, *few, "--note", "a stub"))
    assert code == 0, said
    assert "6 rows written" in said
    manifest = open_pool(out).manifest
    assert manifest.problems[:2] == a_manifest(2).problems
    assert manifest.note == "a stub"
    assert "top_k" not in manifest.sampling
    assert not any("top_k" in body for body in asked(stub))
    assert bench(*options(stub, out, *few)) == (0, f"0 rows written to {out}\n")
    code, said = bench(*options(stub, out, *few, "--temperature", "1"))
    assert code == 1
    assert "another `sampling`" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "nothing"], "no task 'nothing'"),
        (["--url", "http://127.0.0.1:9"], "nothing answers at http://127.0.0.1:9"),
        (["--problems", "501"], "500 problems"),
        (["--like", "nowhere"], "nowhere"),
    ],
)
def test_the_command_says_in_a_sentence_what_is_wrong(
    tmp_path: Path, stub: Stub, more: list[str], message: str
) -> None:
    code, said = bench(*options(stub, tmp_path / "pool", *more))
    assert code == 1
    assert said.startswith("forethought: ")
    assert message in said
    assert not stub.records


def test_grading_again_repairs_verdicts_and_packs(tmp_path: Path, stub: Stub) -> None:
    out = tmp_path / "pool"
    assert bench(*options(stub, out, "--samples", "2", "--problems", "2"))[0] == 0
    rows = sorted(read_rows(out), key=lambda row: (row.problem, row.sample))
    for shard in out.glob("*.jsonl.gz"):
        shard.unlink()
    wrong = [replace(row, answer="no", correct=None, lenient=None) for row in rows]
    append(out / "1.jsonl.gz", wrong[:3])
    append(out / "2.jsonl.gz", wrong[2:])
    code, said = bench("grade", str(out))
    assert code == 0
    assert "4 rows, 2 problems complete, 4 rows changed" in said
    (shard,) = out.glob("*.jsonl.gz")
    assert list(read_rows(out)) == rows
    assert len(gzip.decompress(shard.read_bytes()).splitlines()) == 4


def test_tasks_are_listed() -> None:
    code, said = bench("tasks")
    assert code == 0
    for name in ("game24", "gsm8k", "human_eval", "jsonl", "math500", "reasoning_gym"):
        assert f"\n{name} " in f"\n{said}"


def test_the_command_is_installed_and_imports_nothing_heavy() -> None:
    program = (
        "import sys, loadtests.bench, loadtests.tasks.discovery as d\n"
        "d.task_classes()\n"
        "heavy = ('vllm', 'torch', 'transformers', 'sympy', 'numpy', 'reasoning_gym')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def start(stub: Stub, out: Path) -> subprocess.Popen[str]:
    few = ["--samples", "8", "--problems", "10", "--concurrency", "4"]
    command = [str(FORETHOUGHT), "bench", *options(stub, out, *few)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())


def wait_for_rows(out: Path, count: int) -> list[Sample]:
    deadline = time.monotonic() + 60
    while len(rows := list(read_rows(out))) < count:
        assert time.monotonic() < deadline, "no rows came"
        time.sleep(0.05)
    return rows


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    with running_stub(interval=0.005) as stub:
        for rows in (16, 48):
            with start(stub, tmp_path) as process:
                wait_for_rows(tmp_path, rows)
                process.kill()
        kept = len(list(read_rows(tmp_path)))
        assert kept < 80
        before = len(stub.records)
        with start(stub, tmp_path) as process:
            assert process.wait(120) == 0
        assert len(stub.records) - before == 80 - kept
    rows_now = list(read_rows(tmp_path))
    assert len({(row.problem, row.sample) for row in rows_now}) == len(rows_now) == 80
    assert len(open_pool(tmp_path).recorded) == 10
    assert len(list(tmp_path.glob("*.jsonl.gz"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_with_130_and_how_to_go_on(
    tmp_path: Path, sent: signal.Signals
) -> None:
    with running_stub(interval=0.005) as stub, start(stub, tmp_path) as process:
        wait_for_rows(tmp_path, 16)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "interrupted. The same command goes on" in errors
        answered = sum(record.finished is not None for record in stub.records)
    rows = list(read_rows(tmp_path))
    assert 16 <= len(rows) <= answered
    assert answered - len(rows) <= 4, "no more than what was under way"
    assert len(json.loads((tmp_path / "manifest.json").read_text())["problems"]) == 10


def test_the_endpoint_needs_no_key_and_sends_the_one_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("FORETHOUGHT_BENCH_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert "authorization" not in headers()
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    assert headers()["authorization"] == "Bearer theirs"
    monkeypatch.setenv("FORETHOUGHT_BENCH_KEY", "ours")
    assert headers()["authorization"] == "Bearer ours"


def headers() -> httpx.Headers:
    endpoint = Endpoint("http://127.0.0.1:1")
    asyncio.run(endpoint.__aexit__())
    return endpoint._client.headers
