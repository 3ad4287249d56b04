"""`docker/audit.py`, which asks a real pip-audit, which asks a server of ours in place of OSV."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.threaded import threaded

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "docker" / "audit.py"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of two installed packages."""
    for name in ("leaky", "sound"):
        about = tmp_path / "installed" / f"{name}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    return tmp_path / "installed"


@pytest.fixture(scope="module")
def feed() -> Iterator[str]:
    """A vulnerability feed in OSV's form that knows of one."""

    async def query(http: Request) -> Response:
        asked = json.loads(await http.body())["package"]["name"]
        if asked != "leaky":
            return JSONResponse({})
        events = [{"introduced": "0"}, {"fixed": "1.1"}]
        affected = {
            "package": {"name": "leaky", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": events}],
        }
        return JSONResponse({"vulns": [{"id": "GHSA-leak", "affected": [affected]}]})

    with threaded(Starlette(routes=[Route("/", query, methods=["POST"])])) as port:
        yield f"http://127.0.0.1:{port}/"


def options(installed: Path, feed: str) -> list[str]:
    return ["--path", str(installed), "--vulnerability-service", "osv", "--osv-url", feed]


def test_a_vulnerability_fails_with_what_mends_it(
    audit: ModuleType, installed: Path, feed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(options(installed, feed)) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "leaky 1.0: GHSA-leak, fixed in 1.1"
    assert said[1].startswith("Audit: 1 packages to mend")


def test_an_exception_has_a_reason(
    audit: ModuleType, installed: Path, feed: str, tmp_path: Path
) -> None:
    exceptions = tmp_path / "audit.toml"
    exceptions.write_text('[[exception]]\nid = "GHSA-leak"\nreason = "we never call it"\n')
    assert audit.main(options(installed, feed), exceptions) == 0
    exceptions.write_text('[[exception]]\nid = "GHSA-leak"\n')
    with pytest.raises(SystemExit, match="no reason for GHSA-leak"):
        audit.main(options(installed, feed), exceptions)


def test_where_nobody_can_be_asked_it_says_so_and_passes(
    audit: ModuleType, installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(options(installed, "http://127.0.0.1:9/")) == 0
    assert "nothing was checked" in capsys.readouterr().out


def test_a_mistaken_option_is_no_outage(audit: ModuleType) -> None:
    with pytest.raises(SystemExit, match="usage: pip-audit"):
        audit.main(["--no-such-option"])


def test_the_exceptions_that_are_shipped_can_be_read(audit: ModuleType) -> None:
    assert isinstance(audit.excepted(audit.EXCEPTIONS), list)
