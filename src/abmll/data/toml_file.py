"""TOML files checked against a schema, with every mistake told at once; and the paths that they may name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from abmll.core.documents import TOML_LIMIT, parse_toml
from abmll.core.errors import Unreadable, nearest, printable, shown
from abmll.data.contents import read_text
from abmll.data.problems import Problem


class Schema(BaseModel):
    """A frozen model that takes no unknown key and converts no type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Checked = TypeVar("Checked", bound=Schema)


def read_toml(
    path: Path, schema: type[Checked], base: Mapping[str, Any] | None = None
) -> tuple[Checked | None, list[Problem]]:
    """The file as an instance of `schema`, or None and all that is wrong with it.

    Args:
        base: keys that hold where the file says nothing else; tables are merged key by key.
    """
    table, problems = read_table(path)
    if table is None:
        return None, problems
    for key, value in (base or {}).items():
        ours = table.get(key, value)
        table[key] = {**value, **ours} if isinstance(value, dict) and isinstance(ours, dict) else ours
    try:
        return schema.model_validate(table), problems
    except ValidationError as error:
        return None, [*problems, *(_problem(path, schema, dict(found)) for found in error.errors())]


def read_table(path: Path) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The file's content as a dict, not yet checked."""
    text, problems = read_text(path)
    if text is None:
        return None, problems
    try:
        if len(text) > TOML_LIMIT:
            raise Unreadable(f"a TOML file of {len(text):,} characters", f"Keep it below {TOML_LIMIT:,}")
        return parse_toml(text), problems
    except Unreadable as error:
        return None, [*problems, Problem(printable(path.name), error.line, error.field, error.found, error.cure)]


def inside(folder: Path, name: str) -> Path:
    """The path that a TOML file in `folder` means by `name`.

    Relative names must stay inside `folder`, links resolved, so that a spec from a stranger cannot reach
    other files; an absolute path is taken as it is, since whoever wrote it meant this machine.

    Raises ValueError for a relative path that leaves the folder.
    """
    if Path(name).is_absolute():
        return Path(name)
    try:
        resolved = (folder / name).resolve()
    except (OSError, RuntimeError):  # a circle of links
        raise ValueError(f"the path {shown(name)} leads nowhere") from None
    if not resolved.is_relative_to(folder.resolve()):
        raise ValueError(f"the path {shown(name)} leaves the folder of the file that names it")
    return folder / name


ABSOLUTE_CURE = "Move the data below that folder, or write an absolute path to say that you mean it"


def _problem(path: Path, schema: type[Schema], found: dict[str, Any]) -> Problem:
    where = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        known = _keys(schema, found["loc"][:-1])
        near = nearest(str(found["loc"][-1]), known)
        hint = f"Did you mean {near!r}? " if near else ""
        return Problem(path.name, 0, where, f"unknown key {shown(where)}", f"{hint}Known are: {', '.join(known)}")
    if found["type"] == "missing":
        return Problem(path.name, 0, where, f"the key {where!r} is missing", "Add it")
    return Problem(path.name, 0, where, f"{shown(found['input'])}: {found['msg']}", "Correct the value")


def _keys(schema: type[Schema], location: tuple[Any, ...]) -> list[str]:
    for part in location:
        annotation = schema.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Schema)):
            return []
        schema = annotation
    return list(schema.model_fields)
