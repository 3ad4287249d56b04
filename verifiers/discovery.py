"""Find the classes that a package's files define: adding one is adding one file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import TypeVar

from pydantic import BaseModel

Class = TypeVar("Class", bound=BaseModel)


def discover(package: ModuleType, base: type[Class]) -> dict[str, type[Class]]:
    """Import every module under `package` and return the concrete subclasses of `base` by name.

    A class is concrete when its field `type` has a default, its `Literal`: that is its name.

    Raises:
        ValueError: two classes claim one name.
    """
    found: dict[str, type[Class]] = {}
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for cls in defined_in(importlib.import_module(info.name), base):
            name = str(type_name(cls))
            if name in found:
                raise ValueError(f"{cls} and {found[name]} are both called {name!r}")
            found[name] = cls
    return dict(sorted(found.items()))


def defined_in(module: ModuleType, base: type[Class]) -> list[type[Class]]:
    """Return the concrete subclasses of `base` that the module itself defines."""
    return [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, base) and member.__module__ == module.__name__ and type_name(member)
    ]


def type_name(cls: type[BaseModel]) -> str | None:
    """Return the name by which requests and configurations call the class; None if abstract."""
    field = cls.model_fields.get("type")
    return field.default if field is not None and isinstance(field.default, str) else None


def summary(cls: type[BaseModel]) -> str:
    """Return the first line of the class's docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]
