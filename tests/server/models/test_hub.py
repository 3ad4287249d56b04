import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_hub import REVISION, ModelHub, serve_hub

pytestmark = pytest.mark.slow

HUB_ID = "example/Tiny"


@pytest.fixture
def model_hub() -> Iterator[ModelHub]:
    with serve_hub(HUB_ID) as hub:
        hub.files = {
            "config.json": b"{}",
            "model.safetensors": b"weights" * 100_000,
            "model.onnx": b"another engine's weights",
        }
        yield hub


def pull(name: str, cache: Path, endpoint: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Pull by the command: the hub's address is read once in a process."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "FORETHOUGHT_CACHE": str(cache),
        "HF_HOME": str(cache / "hf"),
    }
    return subprocess.run(
        [Path(sys.executable).with_name("forethought"), "pull", name],
        env=environment | more,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_hub_that_answers_is_used(model_hub: ModelHub, tmp_path: Path):
    done = pull(HUB_ID, tmp_path, model_hub.url)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path == tmp_path / "models" / "example--Tiny"
    for name in ("config.json", "model.safetensors"):
        assert (path / name).read_bytes() == model_hub.files[name]
    assert not (path / "model.onnx").exists()
    marker = json.loads((path / "forethought-model.json").read_text())
    assert marker == {"name": HUB_ID, "source": "hub", "revision": REVISION}


def test_a_second_pull_asks_nobody(model_hub: ModelHub, tmp_path: Path):
    first = pull(HUB_ID, tmp_path, model_hub.url)
    model_hub.requests.clear()
    second = pull(HUB_ID, tmp_path, model_hub.url)
    assert second.stdout == first.stdout
    assert second.returncode == 0
    assert model_hub.requests == []


def test_a_wrong_checksum_is_an_error_and_the_next_pull_repairs_it(
    model_hub: ModelHub, tmp_path: Path
):
    model_hub.claims["model.safetensors"] = "f" * 64
    done = pull(HUB_ID, tmp_path, model_hub.url)
    assert done.returncode == 1
    assert "model.safetensors has a wrong checksum" in done.stderr
    assert "f" * 64 in done.stderr
    assert "Traceback" not in done.stderr
    model_hub.claims.clear()
    assert pull(HUB_ID, tmp_path, model_hub.url).returncode == 0


def test_offline_means_that_no_hub_is_asked(model_hub: ModelHub, tmp_path: Path):
    done = pull(HUB_ID, tmp_path, model_hub.url, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert HUB_ID in done.stderr
    assert model_hub.requests == []


def test_a_model_that_the_hub_lacks_is_a_clear_error(model_hub: ModelHub, tmp_path: Path):
    done = pull("example/Other", tmp_path, model_hub.url)
    assert done.returncode == 1
    assert done.stderr.startswith("example/Other: no hub answers that has it")


def test_a_silent_hub_costs_three_seconds(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        done = pull(HUB_ID, tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert done.returncode == 1
        assert time.monotonic() - start < 3 + 3  # and starting the command
