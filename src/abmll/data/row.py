"""A row of named fields, before anything knows what a task is; and how many a file may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from abmll.data.problems import Problem

MOST_ROWS = 1_000_000
"""Rows of the largest file that is read."""
MOST_LINES = 5_000_000
"""Lines of the longest table: a cell may hold several."""
MOST_COLUMNS = 5_000
"""Columns of the widest table that is read."""


@dataclass(frozen=True)
class Row:
    """One record. line: 1-based, on which it starts. fields: by name; all text in CSV and TSV."""

    line: int
    fields: dict[str, Any]


def too_many_rows(file: str) -> Problem:
    """What is told of a file with more than `MOST_ROWS` rows."""
    message = f"the file has more than {MOST_ROWS:,} rows, which is too many"
    cure = "Take a part of them, e.g. shuf -n 10000 FILE > part.jsonl (keep the header line of a CSV file)"
    return Problem(file, 0, "", message, cure)


def kind_of(value: Any) -> str:
    """A JSON value's type in words, for messages."""
    if value is None:
        return "null"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
