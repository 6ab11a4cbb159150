"""Run files and `key=value` overrides -> RunConfig, or one error that tells every mistake at once."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from abmll.config.mistakes import Mistake, method_list, method_tables, mistakes_of, option_mistakes, options_known
from abmll.config.schema import RunConfig
from abmll.config.tuned import with_tuned
from abmll.core.documents import TOML_LIMIT, parse_toml
from abmll.core.errors import AbmllError, Unreadable, shown
from abmll.core.files import read_bytes

COMMAND_LINE = "command line"
NO_LINE = sys.maxsize


def parse_overrides(overrides: Sequence[str], defaults: Mapping[str, Any] | None = None) -> RunConfig:
    """The defaults with overrides applied, as `load_config` applies them to a file. Raises AbmllError likewise.

    Args:
        defaults: nested dicts that stand in place of the fields' own defaults.
    """
    return _check_overridden(copy.deepcopy(dict(defaults or {})), "", COMMAND_LINE, overrides)


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a run file, applies overrides such as `training.num_steps=50`, and checks the whole.

    A value is read as TOML; a bare word is text; an empty value unsets the field. Paths are taken as they stand,
    relative to the working directory.
    Raises AbmllError naming the file, and for every mistake its line, field, value and rule.
    """
    path = Path(path)
    return _check_text(_read(path), str(path), overrides)


def parse_config(data: Mapping[str, Any], source: str = "configuration") -> RunConfig:
    """Checks a configuration given as nested dicts, as `load_config` checks a file. Raises AbmllError likewise."""
    return _check(data, source)


def _check_text(text: str, source: str, overrides: Sequence[str]) -> RunConfig:
    try:
        data = parse_toml(text)
    except Unreadable as error:
        raise AbmllError(f"{source} is not valid TOML: {error}") from None
    return _check_overridden(data, text, source, overrides)


def _check_overridden(data: dict[str, Any], text: str, source: str, overrides: Sequence[str]) -> RunConfig:
    """data: changed in place. text: where mistakes in it are looked up."""
    mistakes: list[Mistake] = []
    overridden: set[str] = set()
    method = data.get("method", {})
    in_file = method_list(method) if isinstance(method, Mapping) else []
    for override in overrides:
        mistake = _apply(data, override, overridden)
        if mistake:
            mistakes.append(mistake)
    if "method.name" in overridden:
        _without_others(data, overridden, in_file)
    return _check(data, source, lines=_line_numbers(text), overridden=overridden, mistakes=mistakes)


def _without_others(data: dict[str, Any], overridden: set[str], in_file: Sequence[str]) -> None:
    """Leaves out, in place, the options of methods that the command line does not name: it runs a part of them.

    Args:
        in_file: the methods that the run file names; shared options of theirs that none of those run has go, too.
    """
    options, chosen = data["method"].get("options"), set(method_list(data["method"]))
    tables = method_tables(data["method"]).keys()
    theirs = options_known(set(in_file) - chosen) - options_known(chosen)
    for key in list(options) if isinstance(options, dict) else []:
        unused = key not in chosen if key in tables else key in theirs
        if unused and not any(_within(path, f"method.options.{key}") for path in overridden):
            del options[key]


def _check(
    data: Mapping[str, Any],
    source: str,
    *,
    lines: Mapping[str, int] | None = None,
    overridden: set[str] | frozenset[str] = frozenset(),
    mistakes: Sequence[Mistake] = (),
) -> RunConfig:
    data, tuned = with_tuned(data)
    found = [*mistakes, *tuned]
    config = None
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        found += mistakes_of(error, data)
    found += option_mistakes(data.get("method"))
    if found or config is None:
        raise AbmllError(_tell(found, source, lines or {}, overridden))
    return config


def _tell(
    mistakes: Sequence[Mistake], source: str, lines: Mapping[str, int], overridden: set[str] | frozenset[str]
) -> str:
    count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    placed = sorted(((_line(mistake, lines, overridden), mistake.text) for mistake in mistakes), key=lambda one: one[0])
    places = [COMMAND_LINE if line == 0 else f"line {line}" if line < NO_LINE else "" for line, _ in placed]
    indent = max(map(len, places)) + 2 if any(places) else 0
    told = [f"  {place.ljust(indent)}{text}" for place, (_, text) in zip(places, placed, strict=True)]
    return "\n".join([f"{source} holds {count}:", *told, "`abmll config` lists every field."])


def _line(mistake: Mistake, lines: Mapping[str, int], overridden: set[str] | frozenset[str]) -> int:
    """Where a mistake stands in the file; 0 for the command line, NO_LINE if it cannot be told."""
    path = mistake.path
    if path is None or any(_within(path, key) or _within(key, path) for key in overridden):
        return 0
    while path not in lines and "." in path:
        path = path.rpartition(".")[0]
    return lines.get(path, NO_LINE)


def _within(path: str, parent: str) -> bool:
    return path == parent or path.startswith(f"{parent}.")


def _read(path: Path) -> str:
    if path.is_dir():
        raise AbmllError(f"{path} is a folder; give a run file, such as {path / 'run.toml'}.")
    try:
        if path.exists():
            return read_bytes(path, TOML_LIMIT).decode("utf-8-sig")
        near = sorted(str(file) for file in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        hint = f" Run files there: {', '.join(near[:5])}." if near else ""
        raise AbmllError(f"no run file at {path}.{hint} Copy one from examples/, or start from `abmll config`.")
    except UnicodeDecodeError as error:
        raise AbmllError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise AbmllError(f"cannot read {path}: {error.strerror}.") from None


def _apply(data: dict[str, Any], override: str, overridden: set[str]) -> Mistake | None:
    """Puts one override into `data`, in place."""
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        return Mistake(None, f"{override!r} is not of the form key=value, such as training.num_steps=50")
    try:
        value = _parse_value(text.strip())
    except Unreadable as error:
        return Mistake(None, f"{shown(override)}: the value is not valid TOML: {error.found}. {error.cure}")
    table = data
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            return Mistake(None, f"{override!r}: {part} is not a table")
    if value is None:
        table.pop(parts[-1], None)
    else:
        table[parts[-1]] = value
    overridden.add(".".join(parts))
    return None


def _parse_value(text: str) -> Any:
    """None for an empty text, a bare word as text, anything else as TOML."""
    if not text:
        return None
    try:
        # A line break would smuggle in a second assignment; as bare text it is harmless.
        return parse_toml(f"value = {text}")["value"] if "\n" not in text else text
    except Unreadable as error:
        if text[0] in "[{\"'" or not error.found.startswith("broken TOML"):
            raise
        return text


def _line_numbers(text: str) -> dict[str, int]:
    """Dotted path -> line, for tables and assignments that stand on a line of their own."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$", line)
        assignment = re.match(r"\s*([A-Za-z0-9_.\"'\- ]+?)\s*=", line)
        if header:
            table = _plain(header[1])
            lines.setdefault(table, number)
        elif assignment:
            key = _plain(assignment[1])
            lines.setdefault(f"{table}.{key}" if table else key, number)
    return lines


def _plain(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))
