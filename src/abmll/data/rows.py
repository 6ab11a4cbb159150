"""From the bytes of a file to rows of named fields: decompression, encoding, JSONL, CSV, TSV.

Nothing here knows what a task is. Every defect becomes a `Problem`; nothing raises.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abmll.data.problems import Problem, errors

SUFFIXES = (".jsonl", ".csv", ".tsv")
"""What a data file's name ends with, before an optional .gz."""


@dataclass(frozen=True)
class Row:
    """One record. line: 1-based, on which it starts. fields: by name; all text in CSV and TSV."""

    line: int
    fields: dict[str, Any]


def data_suffix(path: Path) -> str:
    """ ".jsonl", ".csv" or ".tsv" (an ending .gz is looked through); "" for any other file."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def task_name(path: Path) -> str:
    """The file's name without .gz and without its format's suffix."""
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return name[: -len(Path(name).suffix)] if Path(name).suffix else name


def read_rows(
    path: Path, *, delimiter: str | None = None, quoting: bool = True, header: list[str] | None = None
) -> tuple[list[Row], list[Problem]]:
    """All rows of a file, and everything that kept a row from being read.

    delimiter: of CSV and TSV; by default a comma or a tab.
    quoting: whether a double quote at a cell's start encloses the cell; if False, quotes are ordinary
        characters.
    header: column names of a file without a header line.
    """
    text, problems = read_text(path)
    if text is None:
        return [], problems
    suffix = data_suffix(path)
    if suffix == ".jsonl":
        rows, found = _jsonl(path.name, text)
    else:
        rows, found = _table(path.name, text, delimiter or {".tsv": "\t"}.get(suffix, ","), quoting, header)
    problems += found
    if not rows and not errors(problems):
        problems.append(Problem(path.name, 0, "", "the file holds no rows", "Add rows, or leave the file out"))
    return rows, problems


def read_text(path: Path) -> tuple[str | None, list[Problem]]:
    """The file's text, decompressed and decoded as UTF-8; None where that fails."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None, [Problem(path.name, 0, "", f"there is no file {path}", "Check the path")]
    except OSError as error:
        return None, [Problem(path.name, 0, "", f"cannot be read: {error.strerror}", "Check the path and its rights")]
    if path.name.lower().endswith(".gz"):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            cure = "Compress it again (gzip FILE), or remove .gz from its name if it is not compressed"
            return None, [Problem(path.name, 0, "", f"the gzip data is damaged ({error})", cure)]
    return _decode(path.name, raw)


def _decode(name: str, raw: bytes) -> tuple[str | None, list[Problem]]:
    problems = []
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        cure = f"Save it as UTF-8, e.g. iconv -f utf-16 -t utf-8 {name}"
        return None, [Problem(name, 1, "", "the file is UTF-16 (byte-order mark at byte 0), not UTF-8", cure)]
    if raw.startswith(b"\xef\xbb\xbf"):
        raw = raw[3:]
        what = "the file starts with a byte-order mark (BOM); it was skipped"
        problems.append(Problem(name, 1, "", what, "Save it as UTF-8 without BOM", "warning"))
        skipped = 3
    else:
        skipped = 0
    try:
        return raw.decode("utf-8"), problems
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{raw[error.start]:02x} at byte offset {error.start + skipped} is not UTF-8"
        cure = f"Save it as UTF-8, e.g. iconv -f latin1 -t utf-8 {name}"
        return None, [*problems, Problem(name, line, "", message, cure)]


def _jsonl(name: str, text: str) -> tuple[list[Row], list[Problem]]:
    rows: list[Row] = []
    problems: list[Problem] = []
    if text.lstrip()[:1] == "[":
        message = "the file is one JSON array, or its first row is a list"
        cure = "Write one JSON object a line, e.g. jq -c '.[]' FILE"
        return rows, [Problem(name, 1, "", message, cure)]
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    # Not splitlines(): U+2028 and its like may stand inside a JSON string.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            fields = decoder.decode(content)
        except _RepeatedKey as error:
            cure = "Keep one of them"
            problems.append(Problem(name, line, str(error), f"the field {str(error)!r} stands twice in the row", cure))
        except (json.JSONDecodeError, RecursionError) as error:
            message = f"broken JSON at line {line}"
            if isinstance(error, json.JSONDecodeError):
                message += f", column {error.colno}: {error.msg}"
            problems.append(Problem(name, line, "", message, "Write one whole JSON object on this line"))
        else:
            if isinstance(fields, dict):
                rows.append(Row(line, fields))
            else:
                message = f"the row is {kind_of(fields)}, not an object"
                problems.append(Problem(name, line, "", message, 'Write {"input": …, "options": …, "target": …}'))
    return rows, problems


def _table(
    name: str, text: str, delimiter: str, quoting: bool, header: list[str] | None
) -> tuple[list[Row], list[Problem]]:
    rows: list[Row] = []
    problems: list[Problem] = []
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than a long document
    lines = io.StringIO(text, newline="")
    if quoting:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL, strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                problems += _check_header(name, line, header)
                if problems:
                    return [], problems
            elif len(cells) != len(header):
                message = f"the row has {len(cells)} cells, the header has {len(header)}"
                cure = f"Give it {len(header)} cells; put double quotes around a cell that contains {delimiter!r}"
                problems.append(Problem(name, line, "", message, cure))
            else:
                rows.append(Row(line, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        cure = "Double each quote inside a quoted cell, or set quoting = false in a TOML spec if quotes mean nothing"
        problems.append(Problem(name, start, "", f"broken quoting in the row that starts here ({error})", cure))
    return rows, problems


def _check_header(name: str, line: int, header: list[str]) -> list[Problem]:
    problems = []
    for column in sorted({column for column in header if header.count(column) > 1}):
        what = f"the header names the column {column!r} twice" if column else "the header has columns without a name"
        problems.append(Problem(name, line, column, what, "Give every column its own name"))
    return problems


class _RepeatedKey(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return fields


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
    return names[type(value)]
