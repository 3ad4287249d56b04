"""Strategies and verifiers of other installed packages: only of those that the settings name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution
from types import ModuleType
from typing import NamedTuple

from pydantic import BaseModel

from server.configuration import ConfigurationError
from strategies.base import Strategy, strategy_classes
from strategies.inner import AUTO
from verifiers.base import Verifier, verifier_classes
from verifiers.discovery import Class, defined_in, type_name

STRATEGIES, VERIFIERS = "forethought.strategies", "forethought.verifiers"
"""The groups of entry points. Each names a module, or one class."""


class Classes(NamedTuple):
    """What requests and configurations can name."""

    strategies: Mapping[str, type[Strategy]]
    verifiers: Mapping[str, type[Verifier]]


def find_classes(packages: Iterable[str] = ()) -> Classes:
    """Return our own classes and those of these packages, by name. Nothing else is imported.

    Raises:
        ConfigurationError: a package is not installed, brings nothing or nothing that fits, or
            takes a name that is taken.
    """
    brought = {package: _entries(package) for package in packages}
    ours, theirs = strategy_classes(), verifier_classes()
    return Classes(
        _joined(ours, Strategy, STRATEGIES, brought, {AUTO}),  # type: ignore[type-abstract]
        _joined(theirs, Verifier, VERIFIERS, brought),  # type: ignore[type-abstract]
    )


def _joined(
    own: Mapping[str, type[Class]],
    base: type[Class],
    group: str,
    brought: Mapping[str, list[EntryPoint]],
    reserved: Iterable[str] = (),
) -> dict[str, type[Class]]:
    """Lay what the packages bring in one group beside our own."""
    found, owners = dict(own), dict.fromkeys([*own, *reserved], "Forethought itself")
    for package, entries in brought.items():
        for cls in _classes(package, (each for each in entries if each.group == group), base):
            name = str(type_name(cls))
            if found.get(name) is cls:
                continue  # two entries may name a module and a class in it
            if name in owners:
                raise _wrong(package, f"the name {name!r} is taken by {owners[name]}")
            found[name], owners[name] = cls, package
    return dict(sorted(found.items()))


def _entries(package: str) -> list[EntryPoint]:
    try:
        installed = distribution(package).entry_points
    except PackageNotFoundError:
        raise _wrong(package, "there is no such installed package") from None
    entries = [each for each in installed if each.group in (STRATEGIES, VERIFIERS)]
    if not entries:
        raise _wrong(package, f"it has no entry points of {STRATEGIES} or {VERIFIERS}")
    return entries


def _classes(
    package: str, entries: Iterable[EntryPoint], base: type[Class]
) -> Iterator[type[Class]]:
    """Import what the entry points name."""
    for entry in entries:
        try:
            target = entry.load()
        except (ImportError, AttributeError) as error:
            raise _wrong(package, f"{entry.value}: {error}") from error
        found = defined_in(target, base) if isinstance(target, ModuleType) else [target]
        if not found:
            raise _wrong(package, f"{entry.value}: it defines no {base.__name__} with a name")
        for cls in found:
            if problem := _unfit(cls, base):
                raise _wrong(package, f"{entry.value}: {cls!r} {problem}")
            yield cls


def _unfit(cls: object, base: type[BaseModel]) -> str | None:
    """Say why this cannot be served; None if it can."""
    if not isinstance(cls, type) or not issubclass(cls, base):
        return f"is no {base.__name__}"
    if type_name(cls) is None:
        return 'has no name: it needs `type: Literal["name"] = "name"`'
    if inspect.isabstract(cls):
        return f"does not define {', '.join(sorted(cls.__abstractmethods__))}"
    required = [name for name, field in cls.model_fields.items() if field.is_required()]
    if required and base is Strategy:
        return f"needs defaults for {', '.join(required)}"
    return None


def _wrong(package: str, problem: str) -> ConfigurationError:
    return ConfigurationError([f"plugins: {package}: {problem}"])
