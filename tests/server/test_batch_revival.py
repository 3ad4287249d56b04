"""Dead lines: listed by the command, and worked again when it says so."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.commands.batches import app
from server.engines.scripted import ScriptedEngine
from tests.server.local import Local, local
from tests.server.test_batches import client_of, create, echo, ended, line, rows
from verifiers.errors import EngineUnavailable
from verifiers.types import Prompt


class Broken:
    """An engine that is away for some questions until it is mended."""

    def __init__(self) -> None:
        self.mended = False

    def __call__(self, prompt: Prompt, index: int) -> Exception | None:
        unlucky = str(prompt.messages[-1]["content"]).startswith("unlucky")
        return EngineUnavailable("it is away") if unlucky and not self.mended else None


@pytest.fixture
def broken() -> Broken:
    return Broken()


@pytest.fixture
def server(broken: Broken, tmp_path: Path) -> Iterator[Local]:
    quick = {"poll_s": 0.02, "backoff_s": 0.01, "attempts": 3}
    engine = ScriptedEngine(echo, fail=broken)
    with local(engine, store=f"sqlite:{tmp_path / 'store.sqlite'}", batches=quick) as served:
        yield served


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def test_dead_lines_are_listed_and_revived(server: Local, broken: Broken) -> None:
    store = server.state.settings.store
    assert store is not None
    assert "No line is dead" in run("dead", "--store", store)
    with client_of(server) as client:
        made = create(client, [line("a"), line("unlucky 1"), line("unlucky 2")])
        batch = ended(client, made)
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
        errors = rows(client, batch.error_file_id)
        assert {name: row["error"] for name, row in errors.items()} == {
            f"unlucky {number}": {"code": "attempts_exhausted", "message": "it is away"}
            for number in (1, 2)
        }
        told = [each.split() for each in run("dead", batch.id, "--store", store).splitlines()]
        assert told[1:] == [
            [batch.id, "unlucky", str(number), "3", "it", "is", "away"] for number in (1, 2)
        ]
        assert batch.id in run("list", "--store", store)

        broken.mended = True
        assert "2 lines wait again" in run("revive", batch.id, "--store", store)
        deadline = time.monotonic() + 10
        while (batch := client.batches.retrieve(batch.id)).error_file_id is not None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert batch.status == "completed"
        assert [*rows(client, batch.output_file_id)] == ["a", "unlucky 1", "unlucky 2"]
        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 0)
        assert server.engine.log["finished"] == 3
    assert "No line is dead" in run("dead", "--store", store)
    run("revive", "batch_none", "--store", store, code=1)
