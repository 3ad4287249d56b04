"""What engines and replicas behind balancers have to show: `loadtests.deployment`."""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import time
from collections.abc import Mapping

from loadtests.compose import ROOT, Project, docker
from loadtests.deployed import Client, tell, wait_for, wait_until_ready
from loadtests.steady import Steady, steadily

ENGINES = ("engine-1", "engine-2")
CLIENTS = 4
_AFTER_KILL_S = 15.0
_WORDS = ("river", "stone", "lamp", "green", "seven", "copper", "north", "paper", "cloud", "table")
_READ_METRICS = (
    "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/metrics').read().decode())"
)


async def prove_scale(project: Project) -> None:
    """Ask for affinity, then kill and restart parts under a steady load."""
    wait_until_ready(project.url)
    key = project.first_key("replica")
    client = Client(project.url, key)
    prove_affinity(project, client)
    load = Steady(project.url, key, client.model)
    async with steadily(load, CLIENTS):
        await asyncio.sleep(5)
        for service in (ENGINES[0], "replica"):
            await prove_loss(project, load, service)
        began = time.monotonic()
        await asyncio.to_thread(restart_replicas, project)
    see_none_failed(load, began, "in a rolling restart of all replicas")


def prove_affinity(project: Project, client: Client) -> None:
    """Ask each of some long prompts several times: one engine must get nearly all of it."""
    rng = random.Random(0)
    used = set()
    for _ in range(4):
        prompt = " ".join(rng.choices(_WORDS, k=300))
        before = prompt_tokens(project)
        for turn in range(4):
            message = {"role": "user", "content": f"{prompt} {turn}"}
            client.chat(messages=[message], max_completion_tokens=4)
        after = prompt_tokens(project)
        read = {name: after[name] - before[name] for name in ENGINES}
        most = max(read, key=lambda name: read[name])
        assert read[most] > 0.8 * sum(read.values()), read
        used.add(most)
    tell("one engine for each prompt; engines that were used", sorted(used))


def prompt_tokens(project: Project) -> Mapping[str, float]:
    """Return how many tokens of prompts each engine has read."""
    counts = {}
    for name in ENGINES:
        [container] = project.containers(name)
        metrics = docker("exec", container, "python3", "-c", _READ_METRICS)
        found = re.findall(r"^vllm:prompt_tokens_total\S* (\S+)$", metrics, re.MULTILINE)
        counts[name] = sum(map(float, found))
    return counts


async def prove_loss(project: Project, load: Steady, service: str) -> None:
    """Kill a container with -9: what is asked from then on must be answered, all of it."""
    container = project.containers(service)[0]
    await asyncio.to_thread(kill, container)
    killed = time.monotonic()
    await asyncio.sleep(_AFTER_KILL_S)
    see_none_failed(load, killed, f"without one {service}")
    lost = len(load.failures(0.0)) - len(load.failures(killed))
    tell(f"requests that ended with the {service} they were in", lost)
    await asyncio.to_thread(docker, "start", container)
    await asyncio.to_thread(wait_until_healthy, container)


def kill(container: str) -> None:
    """Kill a container with -9, and see that it is gone: Docker itself waits for ten seconds."""
    try:
        docker("kill", container)
    except subprocess.CalledProcessError:
        words = ("inspect", "-f", "{{.State.Running}}", container)
        wait_for(lambda: docker(*words).strip() == "false", 60, f"{container} does not end")


def wait_until_healthy(container: str) -> None:
    """Wait for the health check of a container."""
    words = ("inspect", "-f", "{{.State.Health.Status}}", container)
    wait_for(lambda: docker(*words).strip() == "healthy", 600, f"{container} is not healthy")


def restart_replicas(project: Project) -> None:
    """Run the script that operators run."""
    script = ROOT / "docker" / "rolling-restart.sh"
    environment = project.environment | {"COMPOSE": " ".join(project.command)}
    subprocess.run([os.fspath(script)], env=environment, check=True, timeout=1200)


def see_none_failed(load: Steady, since: float, when: str) -> None:
    """See that all requests begun since then were answered."""
    failures = load.failures(since)
    assert not failures, f"{when}: {failures}"
    count = load.count(since)
    assert count > 0, f"{when}: nothing was asked"
    tell(f"requests answered {when}", count)
