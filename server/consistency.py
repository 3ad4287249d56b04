"""Hold the settings against the strategies, verifiers and engines that they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from server.configuration import ConfigurationError, problems_of
from server.settings import MAIN_ENGINE, Preset, Settings
from strategies.allocation import Table, read_table, shipped_tables
from strategies.base import Strategy
from strategies.inner import KNOWN, sampler
from verifiers.base import Verifier


def build_verifiers(
    settings: Settings, classes: Mapping[str, type[Verifier]]
) -> dict[str, Verifier]:
    """Build each configured verifier, and one under its own name of each that needs no settings.

    Raises:
        ConfigurationError: a type is unknown, or its configuration wrong.
    """
    built = {name: cls() for name, cls in classes.items() if _needs_nothing(cls)}
    problems = []
    for name, configuration in settings.verifiers.items():
        place = f"verifiers.{name}"
        problems += _not_in(f"{place}.type", configuration.get("type"), classes)
        problems += _engine_missing(f"{place}.engine", configuration.get("engine"), settings)
        if configuration.get("type") in classes:
            try:
                built[name] = classes[configuration["type"]].model_validate(configuration)
            except ValidationError as error:
                problems += problems_of(error, place)
    if problems:
        raise ConfigurationError(problems)
    return built


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
        problems += unknown or _wrong(f"{place}.verifier", verifiers[str(name)].Fields, fields)
    return problems


def _needs_nothing(cls: type[BaseModel]) -> bool:
    return not any(field.is_required() for field in cls.model_fields.values())


def _engine_missing(place: str, name: str | None, settings: Settings) -> list[str]:
    names = (MAIN_ENGINE, *settings.engines)
    return [] if name is None else _not_in(place, name, names)


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
