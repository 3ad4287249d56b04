"""Find a task by its name: adding one is adding one file to this folder."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from loadtests import tasks
from loadtests.tasks.base import Task


def task_classes() -> dict[str, type[Task]]:
    """Import every file of this folder and return the tasks in it by name."""
    modules = [
        importlib.import_module(f"{tasks.__name__}.{info.name}")
        for info in pkgutil.iter_modules(tasks.__path__)
    ]
    classes = [
        member
        for module in modules
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Task)
        and member.__module__ == module.__name__
        and not inspect.isabstract(member)
    ]
    return {cls.name: cls for cls in sorted(classes, key=lambda cls: cls.name)}


def task_named(spec: str, seed: int = 0) -> Task:
    """Build the task that NAME or NAME:ARGUMENT says; `seed` is for tasks that make problems.

    Raises:
        ValueError: there is no such task, or it cannot read the argument.
    """
    name, _, argument = spec.partition(":")
    classes = task_classes()
    if name not in classes:
        raise ValueError(f"there is no task {name!r}; there are {', '.join(classes)}")
    return classes[name](argument, seed)
