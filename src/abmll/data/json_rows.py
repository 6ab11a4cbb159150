"""From the text of a JSON Lines file to rows; also where the objects stand in one array, or over several lines each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from abmll.core.documents import parse_json
from abmll.core.errors import Unreadable
from abmll.data.problems import Problem
from abmll.data.row import MOST_ROWS, Row, kind_of, too_many_rows

CURE = 'Write {"input": …, "options": …, "target": …}'
_BRACKET = re.compile(r"^[ \t\r]*[{\[]", re.MULTILINE)
_SPACE = re.compile(r"[ \t\r\n]*")
_ONE_A_LINE = "Write one whole JSON object on this line"


def json_rows(name: str, text: str) -> tuple[list[Row], list[Problem]]:
    """The objects of a text, one a line. A missing value (NaN, as pandas writes it) becomes None.

    A text that is one array of objects, or objects over several lines each, is read too: what it says is plain.
    """
    if text.count("\n") - text.count("\n\n") - text.count("\n\r\n") > MOST_ROWS:
        return [], [too_many_rows(name)]
    start = text.lstrip(" \t\r\n")
    if start.startswith("["):
        return _array(name, text, len(text) - len(start))
    if start.startswith("{") and not _is_object(start.partition("\n")[0]):
        rows = _spread(text)
        if rows is not None:
            return rows, []
    return _lines(name, text)


def _lines(name: str, text: str) -> tuple[list[Row], list[Problem]]:
    rows: list[Row] = []
    problems: list[Problem] = []
    if not _BRACKET.search(text):  # no line can be a row: told once, not for each
        for line, content in _numbered(text):
            try:
                parse_json(content, nan_is_null=True)
            except Unreadable as error:
                told = _told(name, line, content, error)
                return [], [replace(told, message=f"no line is an object; {told.message}")]
    for line, content in _numbered(text):
        try:
            fields = parse_json(content, nan_is_null=True)
        except Unreadable as error:
            problems.append(_told(name, line, content, error))
        else:
            if isinstance(fields, dict):
                rows.append(Row(line, fields))
            else:
                problems.append(Problem(name, line, "", f"the row is {kind_of(fields)}, not an object", CURE))
    return rows, problems


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    """Every line that is not blank. Not by splitlines(): U+2028 and its like may stand inside a JSON string."""
    start = line = 0
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        content, line = text[start:end], line + 1
        start = end + 1
        if content.strip():
            yield line, content


def _told(name: str, line: int, content: str, error: Unreadable) -> Problem:
    if not error.found.startswith("broken JSON"):
        found = f"{error.found} in the row" if error.found.startswith("the field") else error.found
        return Problem(name, line, error.field, found, error.cure)
    reason = error.found.partition(": ")[2]
    cure = _ONE_A_LINE if error.cure == "Correct it there" else error.cure
    if reason == "Extra data" and content.rstrip().endswith(","):
        cure = "Remove the comma at the line's end: each line is an object of its own"
    elif content.lstrip()[:1] not in "{[":
        cure = f"{_ONE_A_LINE}; this one is no JSON. A table with a header line is named .csv or .tsv"
    place = f"line {line}" + (f", column {error.column}" if error.column else "")
    return Problem(name, line, "", f"broken JSON at {place}: {reason}", cure)


def _array(name: str, text: str, start: int) -> tuple[list[Row], list[Problem]]:
    """The objects of one array that begins at `start`; if it is none, the lines, which are told one by one."""
    first, _, rest = text[start:].partition("\n")
    if rest.lstrip().startswith("[") and first.rstrip().endswith("]"):
        return _lines(name, text)  # a list a line: each is told to be no object
    rows: list[Row] = []
    problems: list[Problem] = []
    try:
        for line, fields in _elements(text, start):
            if len(rows) >= MOST_ROWS:
                return [], [too_many_rows(name)]
            if isinstance(fields, dict):
                rows.append(Row(line, fields))
            else:
                problems.append(Problem(name, line, "", f"the row is {kind_of(fields)}, not an object", CURE))
    except Unreadable as error:
        place = f"line {error.line}" + (f", column {error.column}" if error.column else "")
        found = error.found
        if found.startswith("broken JSON"):
            found = found.replace("broken JSON", f"broken JSON at {place}", 1)
        return [], [*problems, Problem(name, error.line, error.field, found, error.cure)]
    return rows, problems


def _elements(text: str, start: int) -> Iterator[tuple[int, Any]]:
    """The elements of the array that begins at `start`, each with its line."""
    decoder = json.JSONDecoder()
    position, counted, line = start + 1, 0, 1
    while True:
        position = _skip(text, position)
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            rest = _skip(text, position + 1)
            if rest < len(text):
                found = "broken JSON: something follows the array"
                raise Unreadable(found, "Keep one array, or one object a line", line=line)
            return
        try:
            _, end = decoder.raw_decode(text, position)
        except RecursionError:
            end = len(text)  # parse_json says how deep is too deep
        except ValueError as error:
            if not isinstance(error, json.JSONDecodeError):  # a whole number beyond Python's limit
                raise Unreadable("a whole number of more than 100 digits", "Put it in quotes", line=line) from None
            column = error.pos - text.rfind("\n", 0, error.pos)
            at = line + text.count("\n", counted, error.pos)
            cure = "It ends too early: the rest is missing" if error.pos >= len(text) else "Correct it there"
            raise Unreadable(f"broken JSON: {error.msg}", cure, line=at, column=column) from None
        try:
            yield line, parse_json(text[position:end], nan_is_null=True)
        except Unreadable as error:
            raise Unreadable(error.found, error.cure, line=line, field=error.field) from None
        position = _skip(text, end)
        mark = text[position : position + 1]
        if mark == ",":
            position += 1
        elif mark != "]":
            at = line + text.count("\n", counted, position)
            found = "broken JSON: the array is not closed" if not mark else "broken JSON: a comma is missing"
            cure = "It was cut off: fetch it again" if not mark else "Put one between the objects"
            raise Unreadable(found, cure, line=at, column=position - text.rfind("\n", 0, position))


def _spread(text: str) -> list[Row] | None:
    """Objects over several lines each, one after the other; None if the text is anything else."""
    rows: list[Row] = []
    decoder = json.JSONDecoder()
    position, counted, line = _skip(text, 0), 0, 1
    while position < len(text):
        try:
            _, end = decoder.raw_decode(text, position)
            fields = parse_json(text[position:end], nan_is_null=True)
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict) or len(rows) >= MOST_ROWS:
            return None
        line, counted = line + text.count("\n", counted, position), position
        rows.append(Row(line, fields))
        position = _skip(text, end)
    return rows


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return line.rstrip().endswith("}")
