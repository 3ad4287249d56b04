"""The compose file: what it starts under each profile, and how each container is held."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from functools import cache
from typing import Any

import pytest
import yaml

from loadtests.compose import COMPOSE_FILE, KEY_FILE
from server.settings import Settings

DOCKER = COMPOSE_FILE.parent
PROFILES = {
    "cpu": {"server"},
    "gpu": {"server-gpu"},
    "scale": {"nginx", "replica", "router", "engine-1", "engine-2", "model"},
}
ALWAYS = {"prepare", "redis", "sandbox", "prometheus", "grafana"}
OURS = {"server", "server-gpu", "replica", "engine-1", "engine-2", "model", "prepare", "sandbox"}
PROGRAMS = (["docker", "compose"], ["docker-compose"])


@cache
def described() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
    return tree


def services() -> dict[str, dict[str, Any]]:
    return dict(described()["services"])


def installed(program: list[str]) -> bool:
    if shutil.which(program[0]) is None:
        return False
    return subprocess.run([*program, "version"], capture_output=True, check=False).returncode == 0


def configured(program: list[str], *words: str, **variables: str) -> str:
    """Let a real compose read the file, from a directory that its paths must not depend on."""
    bare = {key: value for key, value in os.environ.items() if not key.startswith("COMPOSE_")}
    done = subprocess.run(
        [*program, "-f", str(COMPOSE_FILE), *words],
        cwd="/",
        env=bare | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARN" not in done.stderr.upper(), done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_compose_reads_every_profile(program: list[str]) -> None:
    if not installed(program):
        pytest.skip(f"{' '.join(program)} is not installed")
    whole = program == ["docker-compose"]  # 1.29 lists services of all profiles
    for profile, own in PROFILES.items():
        listed = configured(program, "--profile", profile, "config", "--services").split()
        assert set(listed) == (set(services()) if whole else own | ALWAYS)
        tree = yaml.safe_load(configured(program, "--profile", profile, "config"))
        assert set(tree["services"]) == set(listed)
        volumes = tree["services"]["prometheus"]["volumes"]
        assert any(f"{DOCKER}/prometheus" in str(each) for each in volumes)


def test_without_a_version_and_with_the_services_that_are_documented() -> None:
    assert "version" not in described()
    assert set(services()) == ALWAYS.union(*PROFILES.values())
    for profile, own in PROFILES.items():
        assert {
            name for name, each in services().items() if profile in each.get("profiles", ())
        } == own


@pytest.mark.parametrize("name", sorted(ALWAYS.union(*PROFILES.values())))
def test_every_container_is_held(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["restart"] == ("no" if name in {"prepare", "model"} else "unless-stopped")
    if name not in {"prepare", "model"}:
        assert service["mem_limit"]
        assert service["pids_limit"]
    for port in service.get("ports", ()):
        assert port.startswith(("${PUBLISH:-127.0.0.1}:", "${WATCH_PUBLISH:-127.0.0.1}:"))
    for volume in service.get("volumes", ()):
        assert not volume.startswith("/"), "only named volumes, and files beside this one"
        assert not volume.startswith("./") or volume.endswith(":ro")


def test_only_the_sandbox_is_without_docker_s_filters() -> None:
    loose = {name for name, each in services().items() if "unconfined" in str(each["security_opt"])}
    assert loose == {"sandbox"}
    sandbox = services()["sandbox"]
    assert "volumes" not in sandbox
    assert "environment" not in sandbox
    assert sandbox["networks"] == ["sandbox"]


def test_what_can_reach_the_outside() -> None:
    networks = described()["networks"]
    assert {name for name, each in networks.items() if not each.get("internal")} == {"front"}
    outside = {name for name, each in services().items() if "front" in each["networks"]}
    assert outside == {
        *("server", "server-gpu", "replica", "model"),  # they fetch models
        *("nginx", "prometheus", "grafana"),  # they publish a port
    }
    assert {name for name, each in services().items() if "state" in each["networks"]} == {
        *("server", "server-gpu", "replica", "redis", "prepare")
    }


def test_nothing_starts_before_what_it_needs() -> None:
    for name, service in services().items():
        for profile in service.get("profiles", PROFILES):
            needs = set(service.get("depends_on", ()))
            assert needs <= ALWAYS | PROFILES[profile], f"{name} under {profile}"
    for name in OURS - {"prepare", "sandbox", "engine-1", "engine-2"}:
        assert "prepare" in services()[name]["depends_on"]


def test_no_secret_is_in_the_files() -> None:
    for path in (COMPOSE_FILE, DOCKER / ".env", DOCKER / "settings.toml"):
        words = path.read_text().lower()
        assert "password:" not in words
        assert "api_key" not in words
        assert "ft-" not in words


def test_the_servers_settings_are_settings() -> None:
    settings = Settings.model_validate(tomllib.loads((DOCKER / "settings.toml").read_text()))
    assert settings.store == "redis://redis:6379/0"
    keys = settings.keys
    assert str(keys.bootstrap_file) == KEY_FILE
    prometheus = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    [job] = [each for each in prometheus["scrape_configs"] if each["job_name"] == "forethought"]
    assert job["authorization"]["credentials_file"] == str(keys.metrics_file)
    for each in (services()["server"], services()["replica"]):
        given = each["environment"]
        assert given["FORETHOUGHT_CONFIG"] == "/etc/forethought/settings.toml"
        named = {name.removeprefix("FORETHOUGHT_").lower() for name in given} - {"config"}
        assert named <= set(Settings.model_fields)


def test_redis_keeps_what_it_was_told() -> None:
    command = services()["redis"]["command"]
    assert "--protected-mode no" in command  # else it answers its own container alone
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_names_that_prometheus_asks_for() -> None:
    prometheus = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    asked = {
        name
        for job in prometheus["scrape_configs"]
        for place in job["dns_sd_configs"]
        for name in place["names"]
    }
    near = set(services()["prometheus"]["networks"])
    for name in asked:
        found = [
            each
            for service, each in services().items()
            if near & set(each["networks"]) and (service == name or name in str(each["networks"]))
        ]
        assert found, f"nothing is called {name}"


def test_a_server_has_the_time_to_drain() -> None:
    settings = Settings()
    for name in ("server", "server-gpu", "replica"):
        seconds = int(services()[name]["stop_grace_period"].removesuffix("s"))
        assert seconds >= settings.drain_notice_s + settings.drain_s + 10
