"""From a file to rows of named fields: JSONL, CSV, TSV, each also compressed.

Nothing here knows what a task is. Every defect becomes a `Problem`; nothing raises.
"""

from __future__ import annotations

from pathlib import Path

from abmll.core.errors import printable
from abmll.data.contents import read_text
from abmll.data.json_rows import json_rows
from abmll.data.problems import Problem, errors
from abmll.data.row import Row, kind_of
from abmll.data.table_rows import Dialect, table_rows

SUFFIXES = (".jsonl", ".csv", ".tsv")
"""What a data file's name ends with, before an optional .gz."""
_ALIASES = {".ndjson": ".jsonl", ".jsonlines": ".jsonl", ".tab": ".tsv"}


def data_suffix(path: Path) -> str:
    """ ".jsonl", ".csv" or ".tsv" (an ending .gz is looked through); "" for any other file."""
    name = path.name.lower().removesuffix(".gz")
    for suffix in (*SUFFIXES, *_ALIASES):
        if name.endswith(suffix):
            return _ALIASES.get(suffix, suffix)
    return ""


def task_name(path: Path) -> str:
    """The file's name without .gz and without its format's suffix; what is no UTF-8 in it is escaped."""
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return printable(name[: -len(Path(name).suffix)] if Path(name).suffix else name)


def read_rows(
    path: Path,
    *,
    delimiter: str | None = None,
    quoting: bool | None = None,
    header: list[str] | None = None,
    encoding: str | None = None,
) -> tuple[list[Row], list[Problem]]:
    """All rows of a file, and everything that kept a row from being read.

    Args:
        delimiter: of CSV and TSV; by default it is recognised.
        quoting: whether a double quote at a cell's start encloses the cell; if False, quotes are ordinary characters.
            By default it does, but a cell that encloses what look like other rows is an error.
        header: column names of a file without a header line.
        encoding: by default UTF-8, or what a byte-order mark says.
    """
    text, problems = read_text(path, encoding=encoding)
    if text is None:
        return [], problems
    name = printable(path.name)
    suffix = data_suffix(path)
    if suffix == ".jsonl":
        rows, found = json_rows(name, text)
    else:
        usual = "\t" if suffix == ".tsv" else ","
        rows, found = table_rows(name, text, Dialect(delimiter, quoting, header, usual))
    problems += found
    if not rows and not errors(problems):
        problems.append(Problem(name, 0, "", "the file holds no rows", "Add rows, or leave the file out"))
    return rows, problems


__all__ = ["SUFFIXES", "Row", "data_suffix", "kind_of", "read_rows", "read_text", "task_name"]
