"""Hold the settings against the strategies, verifiers and engines that they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from server.configuration import ConfigurationError, problems_of
from server.settings import MAIN_ENGINE, Preset, Settings
from strategies.allocation import Table, read_table, shipped_tables
from strategies.base import Strategy
from strategies.inner import KNOWN, sampler
from verifiers.base import Verifier
from verifiers.ensemble import CLASSES, CONFIGURED


def build_verifiers(
    settings: Settings, classes: Mapping[str, type[Verifier]]
) -> dict[str, Verifier]:
    """Build each configured verifier, and one under its own name of each that needs no settings.

    Raises:
        ConfigurationError: a type is unknown, or its configuration wrong.
    """
    building = _Building(settings, classes)
    for name in settings.verifiers:
        building.build(name)
    if building.problems:
        raise ConfigurationError(building.problems)
    return building.built


class _Building:
    """Builds each configured verifier when it is first asked for: ensembles ask for others."""

    def __init__(self, settings: Settings, classes: Mapping[str, type[Verifier]]) -> None:
        self._configured = settings.verifiers
        self._engines = (MAIN_ENGINE, *settings.engines)
        self._classes = classes
        self._context = {CLASSES: classes, CONFIGURED: self.named}
        self._begun: list[str] = []
        self._open: list[str] = []
        """Those that are being built, each as a member of the one before."""
        self.built = {name: cls() for name, cls in classes.items() if _needs_nothing(cls)}
        self.problems: list[str] = []

    def build(self, name: str) -> None:
        """Build what is configured under a name, once, or note what is wrong."""
        if name in self._begun:
            return
        self._begun.append(name)
        self.built.pop(name, None)  # what is configured stands before a class of that name
        configuration, place = self._configured[name], f"verifiers.{name}"
        unknown = _not_in(f"{place}.type", configuration.get("type"), self._classes)
        if unknown:
            self.problems += unknown
            return
        self._open.append(name)
        try:
            cls = self._classes[configuration["type"]]
            built = cls.model_validate(configuration, context=self._context)
        except ValidationError as error:
            self.problems += problems_of(error, place)
        else:
            self.built[name] = built
            for engine in sorted(built.engines()):
                key = next((key for key, told in configuration.items() if told == engine), "engine")
                self.problems += _not_in(f"{place}.{key}", engine, self._engines)
        finally:
            self._open.pop()

    def named(self, name: str) -> Verifier:
        """Return a verifier for an ensemble. Raises PydanticCustomError where there is none."""
        if name in self._open:
            circle = " → ".join((*self._open[self._open.index(name) :], name))
            raise PydanticCustomError("circle", "members in a circle: {circle}", {"circle": circle})
        if name in self._configured:
            self.build(name)
        if name not in self.built:
            known = ", ".join({**self.built, **self._configured})
            wrong = "cannot be built" if name in self._configured else f"there are {known}"
            raise PydanticCustomError(
                "unknown", "there is no {name}: {wrong}", {"name": repr(name), "wrong": wrong}
            )
        return self.built[name]


def read_tables(settings: Settings) -> Mapping[str, Table]:
    """Read the configured tables; those that come with the code are there too.

    Raises:
        ConfigurationError: one cannot be read, is not a table, or names what no strategy takes.
    """
    found, problems = dict(shipped_tables()), []
    for name, path in settings.tables.items():
        try:
            found[name] = read_table(path)
            for choice in found[name].every_choice():
                sampler(choice.model_dump())
        except ValidationError as error:
            problems += problems_of(error, f"tables.{name}")
        except (OSError, ValueError) as error:
            problems.append(f"tables.{name}: {error}")
    if problems:
        raise ConfigurationError(problems)
    return found


def check(
    settings: Settings,
    strategies: Mapping[str, type[Strategy]],
    verifiers: Mapping[str, Verifier],
) -> None:
    """Check every name that the settings use, and the parameters of the presets.

    Raises:
        ConfigurationError: something does not exist, or a parameter is wrong.
    """
    problems = _not_in("default_strategy", settings.default_strategy, strategies)
    problems += _not_in("default_verifier", settings.default_verifier, verifiers)
    if MAIN_ENGINE in settings.engines:
        problems.append(f"engines.{MAIN_ENGINE}: that is the name of the engine of the top level")
    for name, preset in settings.presets.items():
        place = f"presets.{name}"
        if preset.model is not None:
            problems += _not_in(f"{place}.model", preset.model, _models(settings))
        problems += _preset_problems(place, preset, strategies, verifiers)
    if problems:
        raise ConfigurationError(problems)


def _preset_problems(
    place: str,
    preset: Preset,
    strategies: Mapping[str, type[Strategy]],
    verifiers: Mapping[str, Verifier],
) -> list[str]:
    kind = preset.strategy.get("type")
    problems = _not_in(f"{place}.strategy.type", kind, strategies)
    if not problems:
        cls, known = strategies[str(kind)], {KNOWN: strategies}
        problems += _wrong(f"{place}.strategy", cls, preset.strategy, known)
    if preset.verifier is not None:
        fields = dict(preset.verifier)
        name = fields.pop("name", None)
        unknown = _not_in(f"{place}.verifier.name", name, verifiers)
        place = f"{place}.verifier"
        problems += unknown or _wrong(place, verifiers[str(name)].request_fields(), fields)
    return problems


def _needs_nothing(cls: type[BaseModel]) -> bool:
    return not any(field.is_required() for field in cls.model_fields.values())


def _models(settings: Settings) -> list[str]:
    """Name what a preset can stand on: engines, their models, their adapters."""
    names = [MAIN_ENGINE, *settings.engines]
    for engine in (settings, *settings.engines.values()):
        names += [engine.model] if engine.model is not None else []
        names += engine.options.adapters
    return names


def _not_in(place: str, name: Any, known: Iterable[str]) -> list[str]:
    names = list(known)
    if name in names:
        return []
    problem = "is missing" if name is None else f"there is no {name!r}"
    return [f"{place}: {problem}; there are {', '.join(names)}"]


def _wrong(
    place: str,
    cls: type[BaseModel],
    values: Mapping[str, Any],
    context: Mapping[str, Any] | None = None,
) -> list[str]:
    try:
        cls.model_validate(dict(values), context=context)
    except ValidationError as error:
        return problems_of(error, place)
    return []
