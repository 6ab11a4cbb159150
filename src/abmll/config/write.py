"""A configuration as TOML text that reads back equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abmll.config.schema import RunConfig
from abmll.core.toml_text import toml_key, toml_value


def dump_toml(config: RunConfig) -> str:
    """The resolved configuration as a run file. Unset fields are left out, since TOML has no null."""
    tables = config.model_dump()
    return _table(tables, ())


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> str:
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping) and value is not None}
    lines = [f"[{'.'.join(map(toml_key, path))}]"] if path and (values or not table) else []
    lines += [f"{toml_key(key)} = {toml_value(value)}" for key, value in values.items()]
    text = "".join(f"{line}\n" for line in lines)
    for key, value in table.items():
        if isinstance(value, Mapping):
            text += "\n" * bool(text) + _table(value, (*path, key))
    return text
