"""Pin what images install, in docker/constraints: `python docker/pin.py cpu gpu router`.

pip itself decides, on the kind of machine that the images are for, and installs nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "constraints"
REQUIREMENTS = {
    "cpu": ("torch==2.13.0", "forethought[cpu,telemetry] @ {root}"),
    "gpu": ("forethought[gpu,telemetry] @ {root}",),
    "router": ("vllm-router==0.1.*",),
}
HEADER = "# Written by docker/pin.py.\n"


def resolve(requirements: list[str]) -> dict[str, str]:
    """Ask pip for the version of each package that it would install."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
    command += ["--ignore-installed", "--report", "-", *requirements]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    packages = (each["metadata"] for each in report["install"])
    return {each["name"].lower().replace("_", "-"): each["version"] for each in packages}


def main() -> None:
    """Write the pins of the images that are named."""
    root = Path(__file__).resolve().parents[1].as_uri()
    for name in sys.argv[1:]:
        versions = resolve([each.format(root=root) for each in REQUIREMENTS[name]])
        versions.pop("forethought", None)
        # A local version (2.13.0+cpu) names a build: which one there is, the index decides.
        lines = [f"{each}=={version.partition('+')[0]}\n" for each, version in versions.items()]
        (FOLDER / f"{name}.txt").write_text(HEADER + "".join(sorted(lines)))


if __name__ == "__main__":
    main()
