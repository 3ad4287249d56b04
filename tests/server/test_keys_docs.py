"""The sections on keys and quotas of docs/operations.md do as they say."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from typer.main import get_command

from server.commands.keys import app
from server.identity import Scope
from server.keys.scopes import OPEN, RULES
from server.settings import KeySettings, Settings
from tests.server.keyed import all_keys
from tests.server.serving import FORETHOUGHT, environment
from tests.tables import OPERATIONS


def section(title: str) -> str:
    return OPERATIONS.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


KEYS, QUOTAS = section("API keys"), section("Quotas")


def test_the_settings_are_settings_and_the_defaults_are_told() -> None:
    [document] = re.findall(r"^```toml\n(.*?)^```$", KEYS, re.M | re.S)
    shown, plain = Settings.model_validate(tomllib.loads(document)).keys, KeySettings()
    assert shown.mode == "required"
    assert shown.cache_s == plain.cache_s
    assert f"`keys.cache_s`, {plain.cache_s:.0f} seconds" in KEYS
    assert plain.outage_s == 300
    assert "`keys.outage_s`, five minutes" in KEYS
    assert f"`keys.lease_s`, {plain.lease_s:.0f} seconds" in QUOTAS
    assert plain.cache_salt
    for name in re.findall(r"`keys\.(\w+)", KEYS + QUOTAS):
        assert name in KeySettings.model_fields


def test_scopes_and_open_paths_are_told() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", KEYS, re.M))
    assert set(rows) == set(get_args(Scope))
    assert set(re.findall(r"`(/\S+)`", rows["batch"])) == {
        path for path, scope in RULES.items() if scope == "batch"
    }
    assert all(f"`{path}`" in KEYS for path in OPEN)


def test_options_of_quotas_are_those_of_the_command() -> None:
    create = get_command(app).commands["create"]  # type: ignore[attr-defined]
    options = {option for each in create.params for option in each.opts}
    told = set(re.findall(r"`(--[a-z-]+)`", QUOTAS))
    assert told == options - {"--name", "--scope", "--expires", "--store"}


@pytest.mark.slow
def test_the_commands_make_keys(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    variables = environment(store=store)
    variables["PATH"] = f"{FORETHOUGHT.parent}{os.pathsep}{variables['PATH']}"
    for text in (KEYS, QUOTAS):
        [commands] = re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S)
        subprocess.run(["bash", "-ec", commands], check=True, env=variables, capture_output=True)
    trial, laptop = all_keys(store)
    assert (laptop.name, laptop.scopes) == ("laptop", {"inference"})
    assert laptop.expires_at is not None
    assert round(laptop.expires_at - laptop.created_at) == 90 * 86_400
    assert (trial.quota.tokens_per_day, trial.quota.samples_at_once) == (1_000_000, 32)
