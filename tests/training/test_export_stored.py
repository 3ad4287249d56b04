"""Traces that replicas share are exported by the address of their store."""

import json
from pathlib import Path

import pytest

from server.engines.scripted import ScriptedEngine
from tests.server.local import local
from tests.server.test_kept_traces import write_version_1
from tests.store.serving import RedisServer
from tests.training.test_export import SIX, TWO, ask, rows_of, run, script
from training.data import DataError
from training.export.stored import shown_address
from training.export.traces import TraceFile


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_what_servers_share_is_exported(
    kind: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    address = redis_server.url if kind == "redis" else f"sqlite:{tmp_path / 'store.sqlite'}"
    file, asked = tmp_path / "traces.sqlite", {"strategy": {"type": "self_consistency", "n": 3}}
    for terms in ({}, {"file": file}):
        with local(ScriptedEngine(script), traces=terms, store=address) as server:
            for message in (SIX, TWO):
                ask(server, message, seed=1, **asked)
    report = run("prompts", tmp_path / "shared", traces=(address,))
    run("prompts", tmp_path / "own", traces=(file,))
    assert report.read == {"traces": 2, "questions": 2, "replies": 6}
    shared, own = (rows_of(tmp_path / name, "prompts") for name in ("shared", "own"))
    assert [row.prompt for row in shared] == [row.prompt for row in own]


def test_passwords_are_not_written_down(tmp_path: Path, redis_server: RedisServer) -> None:
    assert shown_address("redis://:secret@cache:6379/0?a=b") == "redis://cache:6379/0"
    assert shown_address("sqlite:/var/lib/store.sqlite") == "sqlite:/var/lib/store.sqlite"
    address = redis_server.url.replace("redis://", "redis://user:secret@")
    with pytest.raises(DataError) as caught:
        run("prompts", tmp_path / "out", traces=(address,))
    assert "secret" not in str(caught.value)
    report = tmp_path / "out" / "report.json"
    assert not report.exists() or "secret" not in json.dumps(report.read_text())


def test_a_store_that_is_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as traces"):
        run("prompts", tmp_path / "out", traces=("redis://127.0.0.1:1",))


def test_files_of_version_1_are_read(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    write_version_1(path)
    assert TraceFile(path).count == 1
