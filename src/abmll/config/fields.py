"""The fields of a run file one by one; help and error messages are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from abmll.config.schema import RunConfig, Section
from abmll.rules import describe


class FieldEntry(NamedTuple):
    """One field of a run file. `rule` says what its value must be; `default` is None where nothing is set."""

    path: str
    rule: str
    default: Any
    description: str


def sections() -> dict[str, type[Section]]:
    """The tables of a run file by name, in the order in which they are written."""
    return {
        name: info.annotation
        for name, info in RunConfig.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
    }


def field_entries() -> list[FieldEntry]:
    """Every field of a run file; top-level fields first, then table by table."""
    tables = sections()
    entries = list(_entries(RunConfig, "", skip=tables))
    for name, section in tables.items():
        entries.extend(_entries(section, f"{name}."))
    return entries


def _entries(
    section: type[BaseModel], prefix: str, skip: dict[str, type[Section]] | None = None
) -> Iterator[FieldEntry]:
    for name, info in section.model_fields.items():
        if name not in (skip or {}):
            default = info.get_default(call_default_factory=True)
            yield FieldEntry(f"{prefix}{name}", rule(info), default, info.description or "")


def rule(info: FieldInfo) -> str:
    """What a field's value must be, in words: "a whole number, at least 1", "one of: random, sequential"."""
    if info.examples:
        return "one of: " + ", ".join(map(str, info.examples))
    return describe(info.annotation, info.metadata)
