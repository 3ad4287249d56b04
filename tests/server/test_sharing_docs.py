"""The sections on the result cache and on traces of docs/operations.md do as they say."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import get_args

from server.cache.outcome import CacheStatus
from server.settings import CacheSettings, Settings, TraceSettings
from tests.server.local import local
from tests.tables import OPERATIONS


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", OPERATIONS.read_text(), re.M | re.S)
    assert found is not None, title
    return found[1]


def snippet(text: str, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    return str(found)


def shell(commands: str, url: str) -> str:
    told = commands.replace("http://127.0.0.1:8000", url)
    return subprocess.run(
        ["bash", "-ec", told], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_the_settings_that_are_shown_are_the_defaults(tmp_path: Path) -> None:
    cache = Settings.model_validate(tomllib.loads(snippet(section("Result cache"), "toml")))
    assert cache.result_cache == CacheSettings()
    traces = Settings.model_validate(tomllib.loads(snippet(section("Traces"), "toml"))).traces
    assert traces == TraceSettings(file=Path("traces.sqlite"))
    assert Settings.model_validate({"traces": "traces.sqlite"}).traces == traces


def test_every_word_of_the_cache_is_explained() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section("Result cache"), re.M)
    assert set(rows) == set(get_args(CacheStatus))


def test_the_commands_do_as_they_say() -> None:
    with local(traces={}) as server:
        told = shell(snippet(section("Result cache"), "bash"), server.url)
        assert told.split() == ['"cache":"miss"', '"cache":"hit"']
        assert '"object":"list"' in shell(snippet(section("Traces"), "bash"), server.url)
