"""Methods that others wrote: `package.module:factory`, and what installed packages announce under `abmll.methods`.

Importing a module runs its code, so nothing here is ever called with a name that a person has not given.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from abmll.core.errors import AbmllError
from abmll.core.types import Method
from abmll.rules import in_toml, rules_of

GROUP = "abmll.methods"
"""The group of entry points: `[project.entry-points."abmll.methods"]` in a package's pyproject.toml."""


def announced() -> dict[str, EntryPoint]:
    """The methods that installed packages announce, by name. Reads metadata and imports nothing.

    Raises:
        AbmllError: If two packages announce different methods under one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise AbmllError(
                f"two installed packages announce a method {point.name!r}: {other.value} and {point.value}. "
                "Name the one you mean by its module: " + f"method = {other.value!r}."
            )
    return found


def load_factory(name: str, value: str) -> Callable[..., Any]:
    """The factory at `value`, a text like "package.module:factory". Imports the module; `name` is for messages.

    A module that is not installed is also looked for in the working folder, after everything that is installed.

    Raises:
        AbmllError: If there is no such module, it cannot be imported, or it holds no function of that name that is
            annotated to return a `Method`. The function is not called.
    """
    module_name, _, path = value.partition(":")
    if (
        not module_name
        or not path
        or not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")])
    ):
        raise AbmllError(f"method = {in_toml(name)}: {value!r} is not of the form package.module:factory.")
    try:
        with _working_folder():
            found: Any = importlib.import_module(module_name)
    except Exception as error:
        cure = ""
        if isinstance(error, ModuleNotFoundError) and error.name in (module_name, module_name.partition(".")[0]):
            cure = " Install it, put its folder on PYTHONPATH, or start in that folder."
        raise AbmllError(
            f"method = {in_toml(name)}: cannot import {module_name!r} ({type(error).__name__}: {error}).{cure}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise AbmllError(
                f"method = {in_toml(name)}: {module_name!r} has no {path!r}. Name the function that makes the method."
            )
        found = getattr(found, part)
    if not callable(found) or rules_of(found).get("return") is not Method:
        # os.system is a function too: nothing is called that does not say that it makes a method
        raise AbmllError(
            f"method = {in_toml(name)}: {value} is no function that makes a method. Name the one that does; its head "
            "must say so: def factory(...) -> abmll.Method."
        )
    factory: Callable[..., Any] = found
    return factory


@contextmanager
def _working_folder() -> Iterator[None]:
    """Puts the working folder at the end of the import path: it can add modules and hide none."""
    here = os.getcwd()
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
