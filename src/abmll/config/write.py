"""A configuration as TOML text that reads back equal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from abmll.config.schema import RunConfig


def dump_toml(config: RunConfig) -> str:
    """The resolved configuration as a run file. Unset fields are left out, since TOML has no null."""
    tables = config.model_dump()
    return _table(tables, ())


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> str:
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping) and value is not None}
    lines = [f"[{'.'.join(map(_key, path))}]"] if path and (values or not table) else []
    lines += [f"{_key(key)} = {toml_value(value)}" for key, value in values.items()]
    text = "".join(f"{line}\n" for line in lines)
    for key, value in table.items():
        if isinstance(value, Mapping):
            text += "\n" * bool(text) + _table(value, (*path, key))
    return text


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _string(key)


def toml_value(value: Any) -> str:
    """One value as TOML text on one line; tables inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, PurePath)):
        return _string(str(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return str(value)  # dates and times write themselves as TOML does


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
