"""The section on batches of docs/operations.md does as it says."""

import re
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from server.commands.batches import app
from server.settings import Settings
from tests.server.local import local

ROOT = Path(__file__).parent.parent.parent
SECTION = (
    (ROOT / "docs" / "operations.md")
    .read_text()
    .partition("\n## Batches\n")[2]
    .partition("\n## ")[0]
)


def test_the_program_prints_twenty_answers() -> None:
    [program] = re.findall(r"^```python\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    with local(batches={"poll_s": 0.05}) as server:
        program = program.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
        )
    assert done.returncode == 0, done.stderr
    printed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("sum-")]
    assert printed == [f"sum-{number}" for number in range(20)]


def test_settings_and_commands_exist() -> None:
    settings = Settings(engine="scripted")
    for table, name in re.findall(r"`(batches|files)\.([a-z_]+)`", SECTION):
        assert hasattr(getattr(settings, table), name)
    assert "200 MiB" in SECTION
    assert settings.files.max_bytes == 200 << 20
    assert settings.files.keep_s == 30 * 86_400
    assert settings.batches.max_lines == 50_000
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert set(re.findall(r"forethought batches ([a-z]+)", SECTION)) == set(commands)
