import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from package_index import PackageIndex, serve_index

from server.models.catalogue import Catalogue, CatalogueEntry, Mirror


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """A package index that pip uses, and no other; no hub."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    with serve_index() as running:
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", running.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        yield running


@pytest.fixture
def publish(index: PackageIndex) -> Callable[[bytes, int], CatalogueEntry]:
    """Cut a file into parts and put them on the index."""

    def cut(content: bytes, parts: int) -> CatalogueEntry:
        member = "tiny_part{number}/part{number:02}.bin"
        length = -(-len(content) // parts)
        for number in range(1, parts + 1):
            part = content[(number - 1) * length : number * length]
            index.add(f"tiny-part{number}", "1.0", member.format(number=number), part)
        return CatalogueEntry(
            name="tiny",
            hub_id="example/Tiny",
            licence="MIT",
            generation_config={"temperature": 0.5},
            mirror=Mirror(
                package="tiny-part{number}",
                version="1.0",
                parts=parts,
                member=member,
                download_size=sum(map(len, index.wheels.values())),
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            ),
        )

    return cut


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    path = tmp_path / "partial"
    path.mkdir()
    return path


@pytest.fixture
def catalogue_of() -> Callable[[CatalogueEntry], Catalogue]:
    return lambda entry: Catalogue(default=entry.name, entries=(entry,))
