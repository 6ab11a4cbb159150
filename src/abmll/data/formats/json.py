"""One JSON document with many rows: an array of objects, or an object that holds one such array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from abmll.core.documents import parse_json
from abmll.core.errors import Unreadable
from abmll.data.columns import is_usual
from abmll.data.formats.format import Format, Options, Reading
from abmll.data.problems import Problem
from abmll.data.row import MOST_ROWS, too_many_rows
from abmll.data.rows import Row, kind_of, read_text

USUAL_KEYS = ("data", "rows", "examples", "records", "instances", "questions", "results", "items")


def read_document(path: Path) -> tuple[Any, list[Problem]]:
    """The file's one JSON value; None where there is none, with what is wrong."""
    text, problems = read_text(path)
    if text is None:
        return None, problems
    try:
        return parse_json(text, nan_is_null=True), problems
    except Unreadable as error:
        # What a JSON parser finds behind the first of several objects.
        lines = "Extra data" in str(error) or "more than one" in str(error)
        cure = f"Is it one object a line? Then name it .jsonl: {path.stem}.jsonl" if lines else error.cure
        return None, [*problems, Problem(path.name, error.line, "", error.found, cure)]


def records(name: str, document: Any) -> tuple[list[Row], list[Problem]]:
    """The rows of a document, numbered from 1 in place of lines."""
    found = document
    if isinstance(document, dict):
        document = _turned(document)
        found = document
    if isinstance(document, dict):
        lists = {key: value for key, value in document.items() if _is_table(value)}
        usual = [key for key in USUAL_KEYS if key in lists]
        if len(lists) == 1 or usual:
            found = lists[usual[0] if usual else next(iter(lists))]
        elif len(lists) > 1:
            message = f"the file is an object with several lists of rows: {', '.join(map(repr, lists))}"
            return [], [Problem(name, 0, "", message, "Keep one of them, e.g. jq '.NAME' FILE > new.json")]
    if not isinstance(found, list):
        message = f"the file is {kind_of(found)}, not a list of rows"
        return [], [Problem(name, 0, "", message, "Write [{…}, {…}], or one object a line in a .jsonl file")]
    if len(found) > MOST_ROWS:
        return [], [too_many_rows(name)]
    rows, problems = [], []
    for number, fields in enumerate(found, start=1):
        if isinstance(fields, dict):
            rows.append(Row(number, fields))
        else:
            message = f"row {number} is {kind_of(fields)}, not an object"
            problems.append(Problem(name, number, "", message, 'Write {"input": …, "options": …, "target": …}'))
    if not found:
        problems.append(Problem(name, 0, "", "the file holds no rows", "Add rows, or leave the file out"))
    return rows, problems


def _turned(document: dict[str, Any]) -> Any:
    """As rows what is written by columns, as pandas writes it, or by ids; anything else as it is.

    {"text": […], "label": […]}, {"text": {"0": …}, "label": {"0": …}}, {"columns": […], "data": [[…], …]}, and
    {"id 1": {"text": …, "label": …}, …}.
    """
    names, data = document.get("columns"), document.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(name, str) for name in names):
        if data and all(isinstance(row, list) and len(row) == len(names) for row in data):
            return [dict(zip(names, row, strict=True)) for row in data]
        return document
    columns = list(document.values())
    if any(map(is_usual, document)) and len(columns) > 1:
        if all(isinstance(column, dict) for column in columns) and all(
            column.keys() == columns[0].keys() for column in columns
        ):
            columns = [list(column.values()) for column in columns]
        if all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
            return [dict(zip(document, row, strict=True)) for row in zip(*columns, strict=True)]
    if len(columns) > 1 and all(isinstance(row, dict) and any(map(is_usual, row)) for row in columns):
        return [{"id": key, **row} for key, row in document.items()]
    return document


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _read(path: Path, options: Options) -> Reading:
    document, problems = read_document(path)
    if problems and document is None:
        return Reading([], problems)
    rows, found = records(path.name, document)
    return Reading(rows, [*problems, *found])


FORMAT = Format("a JSON array of objects, or an object that holds one; rows are counted from 1", _read)
