"""Look whether installed packages have known vulnerabilities: `python docker/audit.py`.

Fails with a list where some have, but for those of audit.toml. Where nobody can be asked (no
network, an index that knows of none), it says so and passes. Options are passed to pip-audit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

EXCEPTIONS = Path(__file__).with_name("audit.toml")
PATIENCE_S = 300
_USAGE = 2
_NOBODY = "Audit: nobody can be asked for vulnerabilities from here; nothing was checked.\n"


def excepted(path: Path) -> list[str]:
    """Return the ids of the vulnerabilities that are excepted; each has a reason."""
    entries = tomllib.loads(path.read_text()).get("exception", [])
    if unreasoned := [each["id"] for each in entries if not each.get("reason")]:
        raise SystemExit(f"{path.name}: no reason for {', '.join(unreasoned)}")
    return [each["id"] for each in entries]


def audit(options: list[str], known: list[str]) -> list[dict[str, Any]] | None:
    """Return the packages with vulnerabilities that are not excepted; None: nobody could tell."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--skip-editable"]
    command += ["--progress-spinner", "off", "--desc", "off", "--timeout", "10", *options]
    for each in known:
        command += ["--ignore-vuln", each]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == _USAGE:
        raise SystemExit(done.stderr)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except json.JSONDecodeError:  # it has a report, or an error that is not about packages
        return None
    return [each for each in packages if each.get("vulns")]


def main(options: list[str], exceptions: Path = EXCEPTIONS) -> int:
    """Audit this environment; return the exit code."""
    known = excepted(exceptions)
    found = audit(options, known)
    if found is None:
        sys.stdout.write(_NOBODY)
        return 0
    for package in found:
        for each in package["vulns"]:
            fixed = ", ".join(each["fix_versions"]) or "no version"
            line = f"{package['name']} {package['version']}: {each['id']}, fixed in {fixed}\n"
            sys.stdout.write(line)
    sys.stdout.write(f"Audit: {len(found)} packages to mend, {len(known)} exceptions.\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
