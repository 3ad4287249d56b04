import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

FORETHOUGHT = Path(sys.executable).with_name("forethought")
HEAVY = ("vllm", "torch", "transformers")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FORETHOUGHT, *arguments],
        env=os.environ | {"COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_version_is_the_packages():
    assert run("--version").stdout == f"forethought {version('forethought')}\n"


def test_help_lists_every_entry_point():
    done = run("--help")
    assert done.returncode == 0, done.stderr
    for name in ("serve", "ask", "pull", "models"):
        assert f" {name} " in done.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from server.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_an_unknown_subcommand_is_refused():
    done = run("pulll")
    assert done.returncode == 2
    assert "pulll" in done.stderr


def test_models_lists_what_is_here(tmp_path: Path):
    here = tmp_path / "models" / "smollm2-135m-instruct"
    here.mkdir(parents=True)
    (here / "forethought-model.json").write_text("{}")
    lines = run("models", FORETHOUGHT_CACHE=str(tmp_path)).stdout.splitlines()
    (present,) = [line.split() for line in lines if "smollm2" in line]
    assert present == ["smollm2-135m-instruct", "Apache-2.0", "92.9", "MB", "yes", str(here)]
    (absent,) = [line.split() for line in lines if "1.5b" in line]
    assert absent[-1] == "no"


def test_pull_tells_people_what_is_wrong():
    done = run("pull", "no-such-model")
    assert done.returncode == 1
    assert done.stderr.startswith("'no-such-model' is no model")
    assert done.stdout == ""
