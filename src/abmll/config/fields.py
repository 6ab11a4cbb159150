"""The fields of a run file as rows; help and error messages are made of them."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from abmll.config.schema import RunConfig, Section, distinct


class FieldRow(NamedTuple):
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


def field_rows() -> list[FieldRow]:
    """Every field of a run file; top-level fields first, then table by table."""
    tables = sections()
    rows = list(_rows(RunConfig, "", skip=tables))
    for name, section in tables.items():
        rows.extend(_rows(section, f"{name}."))
    return rows


def _rows(section: type[BaseModel], prefix: str, skip: dict[str, type[Section]] | None = None) -> Iterator[FieldRow]:
    for name, info in section.model_fields.items():
        if name not in (skip or {}):
            default = info.get_default(call_default_factory=True)
            yield FieldRow(f"{prefix}{name}", rule(info), default, info.description or "")


def rule(info: FieldInfo) -> str:
    """What a field's value must be, in words: "a whole number, at least 1", "one of: random, sequential"."""
    if info.examples:
        return "one of: " + ", ".join(map(str, info.examples))
    return describe(info.annotation, info.metadata)


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type and its constraints in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, types.UnionType):
        return "; or ".join(describe(option, metadata) for option in arguments if option is not type(None))
    if origin is Literal:
        return "one of: " + ", ".join(map(str, arguments))
    if origin is tuple:
        different = "different " if any(getattr(item, "func", None) is distinct for item in metadata) else ""
        item = describe(arguments[0])
        for one, many in (("a whole number", "whole numbers"), ("a number", "numbers"), ("text, not empty", "texts")):
            item = item.replace(one, f"{different}{many}")
        return ", ".join([f"a list of {item}", *_bounds(metadata)])
    nouns = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    noun = "a table" if origin is dict else nouns.get(annotation, str(annotation))
    return ", ".join([noun, *_bounds(metadata)])


def _bounds(metadata: Sequence[Any]) -> Iterator[str]:
    # Field(...) inside Annotated keeps its constraints one level deeper than Field(...) as a default.
    constraints = [inner for item in metadata for inner in (item, *getattr(item, "metadata", ()))]
    for constraint in constraints:
        for attribute, words in (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most")):
            bound = getattr(constraint, attribute, None)
            if bound is not None:
                yield f"{words} {bound:g}"
        if getattr(constraint, "min_length", None):
            yield "not empty"
