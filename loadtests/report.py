"""Tables in `docs/results.md`: each measurement owns the text between its two markers."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "docs" / "results.md"


def write_section(name: str, text: str, page: Path = RESULTS) -> None:
    """Put `text` between the markers of `name`; at the end where the page has none yet."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    content = page.read_text(encoding="utf-8")
    if start not in content:
        content += f"\n{start}\n{end}\n"
    before, _, rest = content.partition(start)
    page.write_text(f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def circumstances(command: str) -> str:
    """Say on what, at which commit and by which command a figure was made."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cores} cores, {memory:.0f} GiB, no GPU, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}; at commit {commit} by `{command}`."
    )
