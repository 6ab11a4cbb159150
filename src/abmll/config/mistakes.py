"""What is wrong with a run file, field by field, in words that say what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from abmll.config.fields import field_rows, sections
from abmll.config.methods import known_options, method_names, refusal, wrong_options
from abmll.config.write import toml_value


class Mistake(NamedTuple):
    """One mistake. `path` is the field's dotted path; None if the mistake is in how an override is written."""

    path: str | None
    text: str


def mistakes_of(error: ValidationError, data: Mapping[str, Any]) -> list[Mistake]:
    """Pydantic's findings on `data`, one a field: ten wrong items of a list are one mistake."""
    rules = {row.path: row.rule for row in field_rows()}
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
            found[path] = Mistake(path, f"{path} = {_shown(item['input'])}: must be a table, written as [{path}]")
            continue
        field = ".".join(location[:depth])
        value: Any = data
        for part in location[:depth]:
            value = value[part]
        found[field] = Mistake(field, _wrong(field, value, rules[field]))
    return list(found.values())


def option_mistakes(method: Any) -> list[Mistake]:
    """Unknown methods, unknown options and wrong values of options, from the raw [method] table."""
    table = method if isinstance(method, Mapping) else {}
    name, options = table.get("name", "abmll"), table.get("options", {})
    names = method_list(table)
    if not names or not isinstance(options, Mapping):
        return []  # wrong types are the schema's findings
    known = method_names()
    found = [
        Mistake(
            "method.name",
            f"method.name = {_shown(one)}: no such method.{_hint(one, known)} Methods: {', '.join(known)}",
        )
        for one in names
        if one not in known
    ]
    names = [one for one in names if one in known]
    own = {key: value for key, value in options.items() if key in known and isinstance(value, Mapping)}
    shared = {key: value for key, value in options.items() if key not in own}
    for key in own:
        if names and key not in names:
            text = f"[method.options.{key}]: this run does not use {key}; method.name is {_shown(name)}"
            found.append(Mistake(f"method.options.{key}", text))
    for key in shared:
        if names and not any(key in known_options(one) for one in names):
            found.append(_unknown_option(key, key, names))
    for one in names:
        found += _mistakes_in_options(one, shared, own.get(one, {}))
    return list(dict.fromkeys(found))  # two methods may find the same fault in a shared option


def method_list(table: Mapping[str, Any]) -> list[str]:
    """The methods that a raw [method] table names; empty if the field is of a wrong type."""
    name = table.get("name", "abmll")
    names = [name] if isinstance(name, str) else name
    fits = isinstance(names, Sequence) and all(isinstance(one, str) for one in names)
    return list(names) if fits else []


def _mistakes_in_options(method: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> list[Mistake]:
    known = known_options(method)
    found = [_unknown_option(f"{method}.{key}", key, [method]) for key in own if key not in known]
    # Where each option stands in the file; a method's own table overrides what the methods share.
    places = {key: f"method.options.{key}" for key in shared if key in known}
    places |= {key: f"method.options.{method}.{key}" for key in own if key in known}
    values = {key: own.get(key, shared.get(key)) for key in places}
    wrong = wrong_options(method, values)
    found += [Mistake(places[key], _wrong(places[key], values[key], rule)) for key, rule in wrong.items()]
    if not wrong and (refused := refusal(method, values)):
        found.append(Mistake("method.options", f"method.options for {method}: {refused.rstrip('.')}"))
    return found


def _unknown_option(path: str, option: str, methods: Sequence[str]) -> Mistake:
    known = sorted({one for method in methods for one in known_options(method)})
    has = f" Options: {', '.join(known)}" if known else " It takes none"
    text = f"method.options.{path}: {' or '.join(methods)} has no such option.{_hint(option, known)}{has}"
    return Mistake(f"method.options.{path}", text)


def _wrong(field: str, value: Any, rule: str) -> str:
    hint = ""
    if rule.startswith("one of: ") and isinstance(value, str):
        hint = _hint(value, rule.removeprefix("one of: ").split(", "))
    elif rule.startswith("a list of") and not isinstance(value, (list, tuple, dict)):
        hint = f" Write {_leaf(field)} = [{_shown(value)}]"
    elif isinstance(value, str) and rule.startswith(("a whole number", "a number", "true or false")):
        bare = value.strip().lower()
        if bare in ("true", "false") or bare.replace(".", "", 1).lstrip("-").isdigit():
            hint = f" Write {bare} without quotes"
        elif bare in ("yes", "no", "on", "off") and rule == "true or false":
            hint = f" Write {'true' if bare in ('yes', 'on') else 'false'}"
    return f"{field} = {_shown(value)}: must be {rule}.{hint}".rstrip(".")


def _unknown(path: str, value: Any) -> str:
    """The message for a key that is no field: the nearest in its own table first, then anywhere."""
    tables, paths = sections(), [row.path for row in field_rows()]
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
    return f"{path} = {_shown(value)}: no such field.{hint}"


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f" Did you mean {near[0]!r}?" if near else ""


def _shown(value: Any) -> str:
    text = toml_value(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
