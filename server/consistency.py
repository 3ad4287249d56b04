"""Hold the settings against the strategies, verifiers and engines that they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from server.checkpoints.configured import following, resolved
from server.checkpoints.exchange import POLICY
from server.checkpoints.library import Checkpoint, CheckpointError
from server.configuration import ConfigurationError, problems_of
from server.promoted import has_slots, library_of, promoted_checkpoints, slot_adapters
from server.settings import MAIN_ENGINE, Preset, Settings
from strategies.allocation import Table, read_table, shipped_tables
from strategies.base import Strategy
from strategies.inner import KNOWN, sampler
from verifiers.base import Verifier
from verifiers.ensemble import CLASSES, CONFIGURED
from verifiers.errors import VerifierError


def build_verifiers(
    settings: Settings,
    classes: Mapping[str, type[Verifier]],
    promoted: Mapping[str, Checkpoint] | None = None,
) -> dict[str, Verifier]:
    """Build each configured verifier, and one under its own name of each that needs no settings.

    `promoted` stands for the names of checkpoints; by default, what the store has promoted now.

    Raises:
        ConfigurationError: a type is unknown, or its configuration wrong.
    """
    if promoted is None:
        promoted = promoted_checkpoints(settings)
    built = {name: cls() for name, cls in classes.items() if _needs_nothing(cls)}
    building = _Building(settings, classes, promoted, built)
    for name in settings.verifiers:
        building.build(name)
    if building.problems:
        raise ConfigurationError(building.problems)
    return building.built


def rebuild_verifiers(
    settings: Settings,
    classes: Mapping[str, type[Verifier]],
    running: Mapping[str, Verifier],
    promoted: Mapping[str, Checkpoint],
    name: str,
) -> dict[str, Verifier]:
    """Build those anew that follow a checkpoint's name, by what is promoted; others stay members.

    Raises:
        VerifierError: one cannot be built any more.
    """
    changed = following(settings.verifiers, name)
    kept = {each: verifier for each, verifier in running.items() if each not in changed}
    building = _Building(settings, classes, promoted, kept, begun=settings.verifiers.keys() & kept)
    for each in sorted(changed):
        building.build(each)
    if building.problems:
        raise VerifierError("; ".join(building.problems))
    return {each: building.built[each] for each in sorted(changed)}


class _Building:
    """Builds each configured verifier when it is first asked for: ensembles ask for others."""

    def __init__(
        self,
        settings: Settings,
        classes: Mapping[str, type[Verifier]],
        promoted: Mapping[str, Checkpoint],
        built: dict[str, Verifier],
        begun: Iterable[str] = (),
    ) -> None:
        """`built` are there already; of the configured ones, those that are `begun` too."""
        self._configured = settings.verifiers
        self._library, self._promoted = library_of(settings), promoted
        self._adapters = slot_adapters(settings, promoted)
        self._engines = (MAIN_ENGINE, *settings.engines)
        self._classes = classes
        self._context = {CLASSES: classes, CONFIGURED: self.named}
        self._begun = list(begun)
        self._open: list[str] = []
        """Those that are being built, each as a member of the one before."""
        self.built = built
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
            told = resolved(configuration, self._find, self._adapters)
            built = cls.model_validate(told, context=self._context)
        except ValidationError as error:
            self.problems += problems_of(error, place)
        except CheckpointError as error:
            self.problems.append(f"{place}.{error}")
        else:
            self.built[name] = built
            for engine in sorted(built.engines()):
                key = next((key for key, told in configuration.items() if told == engine), "engine")
                self.problems += _not_in(f"{place}.{key}", engine, self._engines)
        finally:
            self._open.pop()

    def _find(self, spec: str) -> Checkpoint:
        return self._promoted[spec] if spec in self._promoted else self._library.find(spec)

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
    promoted = promoted_checkpoints(settings).items() if has_slots(settings) else ()
    return [*names, *(name for name, each in promoted if each.manifest.kind == POLICY)]


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
