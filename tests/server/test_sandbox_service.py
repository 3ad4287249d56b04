"""`forethought sandbox`, and attacks through a whole server: harm is contained, the rest works."""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from server.commands.sandbox import MAX_BODY_BYTES, Service, create_sandbox_app
from server.engines.scripted import ScriptedEngine
from tests.server.local import local
from tests.server.serving import FORETHOUGHT, environment
from tests.threaded import threaded
from verifiers.errors import VerifierError, VerifierUnavailable
from verifiers.python_tests import PythonTests
from verifiers.sandbox import Outcome, Program
from verifiers.sandbox_command import Limits
from verifiers.sandbox_service import RemoteSandbox
from verifiers.types import Candidate, Capabilities, Prompt, Sampling, Task

POLICY = Capabilities(context_length=100)
TASK = Task(Prompt(()), {"tests": ["assert one() == 1"]})


@contextmanager
def served(service: Service) -> Iterator[str]:
    """Serve a sandbox in this process until the block ends."""
    with threaded(create_sandbox_app(service)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(Service(at_once=2)) as found:
        yield found


def sleeper() -> tuple[str, str]:
    """Return a program that sleeps, and what tells it from outside."""
    token = f"token-{uuid4()}"
    command = ["-I", "-S", "-c", "import time; time.sleep(60)", token]
    return f"import os, sys; os.execv(sys.executable, [sys.executable, *{command!r}])", token


def running(token: str) -> bool:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if token.encode() in entry.read_bytes():
                return True
    return False


def wait_until(wanted: bool, token: str) -> None:
    for _ in range(500):
        if running(token) == wanted:
            return
        time.sleep(0.01)
    raise AssertionError(f"running: {not wanted}")


async def test_a_program_runs_over_there(url: str) -> None:
    sandbox = RemoteSandbox(f"{url}/")
    assert await sandbox.unavailable() is None
    outcome = await sandbox.run(Program("print(input())\nexit", "hé"), Limits())
    assert (outcome.status, outcome.stdout) == (1, "hé\n")
    assert "NameError" in outcome.stderr
    outcome = await sandbox.run(Program("while 1: pass"), Limits(seconds=0.5))
    assert (outcome.status, outcome.killed_by) == (None, "time")
    await sandbox.aclose()


async def test_hanging_up_kills_the_program(url: str) -> None:
    sandbox = RemoteSandbox(url)
    source, token = sleeper()
    asking = asyncio.create_task(sandbox.run(Program(source), Limits(seconds=60)))
    while not running(token):
        assert not asking.done()
        await asyncio.sleep(0.02)
    asking.cancel()
    await asyncio.wait([asking])
    await asyncio.to_thread(wait_until, False, token)
    await sandbox.aclose()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ("{}", 400),
        ('{"source": 1}', 400),
        ('{"source": "", "limits": {"seconds": 1e9}}', 400),
        ('{"source": "", "limits": {"seconds": 0}}', 400),
        ('{"source": "", "limits": {"memory_mebibytes": 1e9}}', 400),
        ('{"source": "", "command": "ls"}', 400),
        (json.dumps({"source": "x" * MAX_BODY_BYTES}), 413),
    ],
)
def test_what_is_wrong_is_refused(url: str, body: str, status: int) -> None:
    response = httpx.post(f"{url}/run", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_pages_of_other_sites_cannot_post_to_it(url: str) -> None:
    assert httpx.post(f"{url}/run", content='{"source": ""}').status_code == 415


async def test_too_many_are_refused() -> None:
    with served(Service(at_once=1, waiting=1)) as url:
        async with aclosing(RemoteSandbox(url)) as sandbox:
            source, token = sleeper()
            async with asyncio.TaskGroup() as tasks:
                program = Program(source)
                two = [tasks.create_task(sandbox.run(program, Limits(60))) for _ in range(2)]
                while not running(token):
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.1)
                with pytest.raises(VerifierUnavailable, match="full"):
                    await sandbox.run(Program(""), Limits())
                for each in two:
                    each.cancel()
            await asyncio.to_thread(wait_until, False, token)
            assert (await once_there_is_room(sandbox)).ok


async def once_there_is_room(sandbox: RemoteSandbox) -> Outcome:
    """Run an empty program; a place is free a moment after the one that had it has ended."""
    async with asyncio.timeout(10):
        while True:
            with suppress(VerifierUnavailable):
                return await sandbox.run(Program(""), Limits())
            await asyncio.sleep(0.02)


async def test_the_verifier_asks_the_service(url: str) -> None:
    verifier = PythonTests(url=url)
    await verifier.start()
    assert verifier.unavailable(POLICY, POLICY) is None
    await verifier.check()
    candidates = [
        Candidate("a", "def one(): return 1", finish_reason="stop"),
        Candidate("b", "def one(): return 2", finish_reason="stop"),
    ]
    scores = await verifier.score(TASK, candidates, None)  # type: ignore[arg-type]
    assert [score.value for score in scores] == [1, 0]
    await verifier.aclose()


async def test_a_service_that_is_away_or_strange() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    verifier = PythonTests(url=f"http://127.0.0.1:{port}")
    await verifier.start()  # it may come later
    assert verifier.unavailable(POLICY, POLICY) is None
    with pytest.raises(VerifierUnavailable, match="away"):
        await verifier.check()
    code = [Candidate("a", "def one(): return 1", finish_reason="stop")]
    with pytest.raises(VerifierUnavailable, match="away"):
        await verifier.score(TASK, code, None)  # type: ignore[arg-type]
    await verifier.aclose()
    with local() as server:
        strange = RemoteSandbox(server.url)
        with pytest.raises(VerifierError, match="answers 404"):
            await strange.run(Program(""), Limits())
        await strange.aclose()


@pytest.mark.slow
def test_the_command_serves_and_dies_with_all_its_programs() -> None:
    with subprocess.Popen(
        [FORETHOUGHT, "sandbox", "--port", "0", "--at-once", "2"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 30)[0]
            url = process.stdout.readline().removeprefix("Sandbox on ").strip()
            assert httpx.get(f"{url}/healthz").text == "ok\n"
            source, token = sleeper()
            body = {"source": source, "limits": {"seconds": 60}}
            with ThreadPoolExecutor() as pool:
                asking = pool.submit(httpx.post, f"{url}/run", json=body, timeout=60)
                wait_until(True, token)
                os.kill(process.pid, signal.SIGKILL)
                wait_until(False, token)
                assert isinstance(asking.exception(), httpx.TransportError)
        finally:
            process.kill()


@pytest.mark.slow
def test_without_bubblewrap_the_command_says_so() -> None:
    done = subprocess.run(
        [FORETHOUGHT, "sandbox", "--port", "0"],
        capture_output=True,
        text=True,
        env=environment() | {"PATH": "/nowhere"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    expected = "forethought: there is no sandbox: bubblewrap (`bwrap`) is not installed\n"
    assert done.stderr == expected


ATTACKS = [
    "import os\nwhile 1:\n  try: os.fork()\n  except OSError: pass",
    "x = bytearray(b'x') * 2**33",
    "import os\nfor _ in range(4): os.fork()\nx = bytearray(b'x') * 2**27\nwhile 1: pass",
    "while 1: print('x' * 10**6)",
    "import os\nfor pid in range(2, 10**5):\n  try: os.kill(pid, 9)\n  except OSError: pass",
    "import shutil\nshutil.rmtree('/', ignore_errors=True)",
    "import os\nos._exit(0)",
]


def script(prompt: Prompt, sampling: Sampling, index: int) -> str:
    """Answer with attacks where code is asked for, else with a word."""
    if "code" not in str(prompt.messages):
        return "Hello."
    code = ATTACKS[index] if index < len(ATTACKS) else "def one(): return 1"
    return f"```python\n{code}\n```"


def test_the_server_is_unharmed_by_attacks() -> None:
    messages: Any = [{"role": "user", "content": "Write code."}]
    body = {
        "messages": messages,
        "strategy": {"type": "best_of_n", "n": len(ATTACKS) + 1},
        "verifier": {
            "name": "python_tests",
            "tests": ["assert one() == 1"],
            "entry_point": "one",
            "timeout_s": 2,
        },
    }
    with local(ScriptedEngine(script)) as server, ThreadPoolExecutor() as pool:
        asyncio.run(server.state.verifiers["python_tests"].start())
        attacking = pool.submit(
            httpx.post, f"{server.url}/v1/chat/completions", json=body, timeout=60
        )
        others, slowest = 0, 0.0
        while not attacking.done():
            began = time.monotonic()
            reply = server.post(messages=[{"role": "user", "content": "Hi."}])
            assert reply.json()["choices"][0]["message"]["content"] == "Hello."
            slowest = max(slowest, time.monotonic() - began)
            others += 1
            time.sleep(0.05)
        response = attacking.result()
        assert response.status_code == 200, response.text
        assert "return 1" in response.json()["choices"][0]["message"]["content"]
        assert others > 5
        assert slowest < 3
