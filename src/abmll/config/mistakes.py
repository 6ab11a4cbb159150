"""What is wrong with a run file, field by field, in words that say what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from abmll.config.fields import field_entries, sections
from abmll.config.methods import known_options
from abmll.core.errors import AbmllError
from abmll.rules import breach, in_toml


class Mistake(NamedTuple):
    """One mistake. `path` is the field's dotted path; None if the mistake is in how an override is written."""

    path: str | None
    text: str


def mistakes_of(error: ValidationError, data: Mapping[str, Any]) -> list[Mistake]:
    """Pydantic's findings on `data`, one a field: ten wrong items of a list are one mistake."""
    rules = {row.path: row.rule for row in field_entries()}
    found: dict[str, Mistake] = {}
    for item in error.errors(include_url=False):
        location = [str(part) for part in item["loc"]]
        path = ".".join(location)
        if item["type"] == "extra_forbidden":
            found[path] = Mistake(path, _unknown(path, item["input"]))
            continue
        # The location goes on with a list's index or a union's branch: cut it back to the field.
        depth = next((n for n in (2, 1) if ".".join(location[:n]) in rules), None)
        if depth is None:
            found[path] = Mistake(path, f"{path} = {in_toml(item['input'])}: must be a table, written as [{path}]")
            continue
        field = ".".join(location[:depth])
        value: Any = data
        for part in location[:depth]:
            value = value[part]
        found[field] = Mistake(field, breach(field, value, rules[field]))
    return list(found.values())


def option_mistakes(method: Any) -> list[Mistake]:
    """Unknown methods, unknown options and wrong values of options, from the raw [method] table."""
    table = method if isinstance(method, Mapping) else {}
    name, options = table.get("name", "abmll"), table.get("options", {})
    names = method_list(table)
    if not names or not isinstance(options, Mapping):
        return []  # wrong types are the schema's findings
    from abmll.methods.table.options import unknown_option

    unusable = {one: reason for one in dict.fromkeys(names) if (reason := _unusable(one)) is not None}
    found = [Mistake("method.name", reason) for reason in unusable.values()]
    names = [one for one in names if one not in unusable]
    own = method_tables(table)
    shared = {key: value for key, value in options.items() if key not in own}
    for key in own:
        if names and key not in {*names, *unusable}:
            text = f"[method.options.{key}]: this run does not use {key}; method.name is {in_toml(name)}"
            found.append(Mistake(f"method.options.{key}", text))
    known = options_known(names)
    for key in shared:
        if names and key not in known:
            place = f"method.options.{key}"
            found.append(Mistake(place, f"method.options.{unknown_option(key, names, sorted(known))}"))
    for one in names:
        found += _mistakes_in_options(one, shared, own.get(one, {}))
    return list(dict.fromkeys(found))  # two methods may find the same fault in a shared option


def method_tables(method: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Methods' own tables among the options of a raw [method] table, by the method's name."""
    options = method.get("options")
    if not isinstance(options, Mapping):
        return {}
    return {key: value for key, value in options.items() if isinstance(value, Mapping) and _is_method(key)}


def _unusable(method: str) -> str | None:
    """Why a run cannot use a method of this name; None if it can. A module that the name holds is imported."""
    from abmll.methods import method_factory

    try:
        method_factory(method)
    except AbmllError as error:
        return "method.name = " + str(error).removeprefix("method = ").rstrip(".")
    return None


def options_known(names: Iterable[str]) -> set[str]:
    """The options that any of these methods has; a name that a run cannot use has none."""
    return {option for one in names if _unusable(one) is None for option in known_options(one)}


def _is_method(key: str) -> bool:
    from abmll.methods import is_method

    return ":" in key or is_method(key)


def method_list(table: Mapping[str, Any]) -> list[str]:
    """The methods that a raw [method] table names; empty if the field is of a wrong type."""
    name = table.get("name", "abmll")
    names = [name] if isinstance(name, str) else name
    fits = isinstance(names, Sequence) and all(isinstance(one, str) for one in names)
    return list(names) if fits else []


def _mistakes_in_options(method: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> list[Mistake]:
    from abmll.methods import method_factory
    from abmll.methods.table.options import option_mistakes as mistakes

    known = known_options(method)
    # Where each option stands in the file; a method's own table overrides what the methods share.
    places = {key: f"method.options.{key}" for key in shared if key in known}
    places |= {key: f"method.options.{method}.{key}" for key in own}
    values = {key: own.get(key, shared.get(key)) for key in places}
    return [
        Mistake("method.options", f"method.options for {method}: {text.rstrip('.')}")
        if option is None
        else Mistake(places[option], places[option].removesuffix(option) + text)
        for option, text in mistakes(method, method_factory(method), values)
    ]


def _unknown(path: str, value: Any) -> str:
    """The message for a key that is no field: the nearest in its own table first, then anywhere."""
    tables, paths = sections(), [row.path for row in field_entries()]
    table, _, key = path.rpartition(".")
    if not table and isinstance(value, Mapping):
        near = difflib.get_close_matches(key, tables, n=1)
        hint = f" Did you mean [{near[0]}]?" if near else ""
        return f"[{key}]: no such table.{hint} Tables: {', '.join(tables)}"
    siblings = [_leaf(one) for one in paths if one.rpartition(".")[0] == table]
    by_leaf = {_leaf(one): one for one in reversed(paths)}  # of equal names, the first
    near = [f"{table}.{one}".lstrip(".") for one in difflib.get_close_matches(key, siblings, n=1)]
    near = near or [by_leaf[one] for one in difflib.get_close_matches(key, by_leaf, n=1, cutoff=0.75)]
    if near:
        hint = f" Did you mean {near[0]}?"
    else:
        hint = f" Fields {f'of [{table}]' if table else 'outside a table'}: {', '.join(siblings)}"
    return f"{path} = {in_toml(value)}: no such field.{hint}"


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]
