"""Readers of other people's formats: one file each, found by its name.

A file `xy_z.py` here that holds a `FORMAT` is what a spec calls `format = "xy-z"`; nothing else needs to know of it.
"""

from __future__ import annotations

import importlib
import pkgutil

from abmll.core.errors import unknown_name
from abmll.data.formats.format import Format

TABLE = "table"
"""The format of a spec that names none: what the file's own name says, its fields as they are."""
_NOT_READERS = {"arrow", "container", "format", "listed"}


def format_names() -> list[str]:
    """All formats, by the name that a spec gives them; sorted."""
    return sorted(
        module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_READERS
    )


def find_format(name: str) -> Format:
    """The format of this name. Raises AbmllError with the nearest name if there is none."""
    if name not in format_names():
        raise unknown_name("format", name, format_names())
    found: Format = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").FORMAT
    return found
