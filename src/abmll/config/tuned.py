"""Options that `abmll tune` found, put into a run's data before it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abmll.config.mistakes import Mistake, method_list
from abmll.core.documents import read_toml
from abmll.core.errors import Unreadable


def with_tuned(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Mistake]]:
    """The run's data with the tables of its `method.tuned` file put in, and what is wrong with that file.

    A value in the run file's own table of a method goes before the tuned one, and that before the options that all
    methods share. The resolved run holds the options themselves, so that it no longer depends on the file; tables of
    methods that the run does not use are left out.
    """
    method = data.get("method")
    if not isinstance(method, Mapping) or not isinstance(method.get("tuned"), str):
        return data, []
    path = Path(method["tuned"])
    try:
        found = read_toml(path)["method"]["options"]
        tables = {name: dict(table) for name, table in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.found if isinstance(error, Unreadable) else "it holds no tables [method.options.NAME]"
        text = f'method.tuned = "{path}": cannot be used ({reason}). Give the tuned.toml that `abmll tune` wrote'
        return data, [Mistake("method.tuned", text)]
    options = method.get("options", {})
    if not isinstance(options, Mapping):
        return data, []  # the schema's finding
    merged = dict(options)
    for name in method_list(method):
        if name in tables:
            own = options.get(name, {})
            merged[name] = tables[name] | dict(own) if isinstance(own, Mapping) else own
    rest = {key: value for key, value in method.items() if key != "tuned"}
    return {**data, "method": {**rest, "options": merged}}, []
