"""Read the settings from where they may be said, and name what is wrong by its place and key."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, SettingsError

from server.settings import PartialBudget, Settings

DEFAULT_FILE = Path("forethought.toml")
PREFIX = "FORETHOUGHT_"
_NO_SETTINGS = ("config", "cache")
"""Variables with our prefix that are read elsewhere."""

Key: TypeAlias = tuple[str | int, ...]


class ConfigurationError(Exception):
    """The server cannot start as it is configured; one line for each thing that is wrong."""

    def __init__(self, problems: Iterable[str]) -> None:
        super().__init__("\n".join(problems))


class _Source(NamedTuple):
    """A place where settings are said, and how it writes a key."""

    name: str
    values: Mapping[str, Any]
    prefix: str = ""
    joint: str = "."

    def says(self, key: Key) -> bool:
        """Whether the key, or a table above it, is given here."""
        value: Any = self.values
        for part in key:
            if not isinstance(value, Mapping) or part not in value:
                return value is not self.values and not isinstance(value, Mapping)
            value = value[part]
        return True

    def spell(self, key: Key) -> str:
        """Write a key as it is written here."""
        written = self.joint.join(map(str, key))
        return f"{self.name}: {self.prefix}{written.upper() if self.prefix else written}"


def load_settings(config: Path | None = None, **command_line: Any) -> Settings:
    """Read the settings; options of the command line that are None were not given.

    Raises:
        ConfigurationError: a file, variable, key or value is not as it has to be.
    """
    named = config or os.environ.get(f"{PREFIX}CONFIG")
    path = Path(named) if named else DEFAULT_FILE
    file = _read_toml(path) if named or path.exists() else {}
    given = {key: value for key, value in command_line.items() if value is not None}
    sources = (
        _Source("command line", given),
        _Source("environment", _read_environment(), PREFIX, "__"),
        _Source(str(path), file),
    )
    merged: dict[str, Any] = {}
    for source in reversed(sources):
        merged = _laid_over(merged, source.values)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(_problem(each, sources) for each in error.errors()) from error


def problems_of(error: ValidationError, place: str) -> list[str]:
    """Write each thing that is wrong below the key `place`."""
    return [
        f"{'.'.join((place, *map(str, each['loc'])))}: {each['msg']}" for each in error.errors()
    ]


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees of tables; where both have a value, the one above wins."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = _laid_over(old, value)
        merged[key] = value
    return merged


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path}: not TOML: {error}"]) from error


def _read_environment() -> Mapping[str, Any]:
    fields = [name for name in os.environ if name.upper().startswith(PREFIX)]
    problems = []
    for variable in fields:
        key = variable[len(PREFIX) :].lower().partition("__")[0]
        if key not in Settings.model_fields and key not in _NO_SETTINGS:
            problems.append(f"environment: {variable}: {_unknown(key, Settings.model_fields)}")
    if problems:
        raise ConfigurationError(problems)
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise ConfigurationError([f"environment: {error}: it is not JSON"]) from error


def _problem(error: ErrorDetails, sources: Iterable[_Source]) -> str:
    key = error["loc"]
    where = next((source.spell(key) for source in sources if source.says(key)), "settings")
    if error["type"] == "extra_forbidden":
        return f"{where}: {_unknown(str(key[-1]), _known(key[:-1]))}"
    message = error["msg"].removeprefix("Value error, ")
    shown = error["input"]
    if isinstance(shown, str | int | float):
        message += f", not {shown!r}"
    return f"{where}: {message}" if key else f"settings: {message}"


def _known(key: Key) -> Iterable[str]:
    """Name the keys that the table at `key` may have."""
    model: Any = Settings
    for part in key:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(str(part))
            model = None if field is None else field.annotation
        else:
            model = next(iter(get_args(model)[1:]), None)  # a table of tables: dict[str, Model]
    if isinstance(model, type) and issubclass(model, BaseModel):
        return tuple(model.model_fields)
    return tuple(PartialBudget.__annotations__)  # the one table that is not a model


def _unknown(key: str, known: Iterable[str]) -> str:
    names = list(known)
    near = get_close_matches(key, names, n=1)
    if near:
        return f"there is no such setting; did you mean {near[0]}?"
    return f"there is no such setting; there are {', '.join(names)}"
