"""What a file is, before anyone asks what its rows mean: text tables, JSON, Parquet, Excel, a `datasets` folder."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from abmll.core.errors import printable, shown
from abmll.data.contents import read_unpacked
from abmll.data.formats.format import Options, Reading
from abmll.data.kinds import GZIP, kind_of_bytes
from abmll.data.problems import Problem, errors
from abmll.data.rows import data_suffix, read_rows, read_text

BY_SUFFIX = {".json": "json", ".parquet": "parquet", ".xlsx": "excel", ".xlsm": "excel", ".arrow": "datasets"}
"""Which format reads a file that is no text table, by what its name ends with."""
KNOWN_SUFFIXES = (".jsonl", ".csv", ".tsv", *BY_SUFFIX)


def container_format(path: Path) -> str:
    """ "table" for CSV, TSV and JSONL (each also .gz); the name of another format; "" for an unknown file."""
    if os.path.isdir(path):  # unlike Path.is_dir, without an error for names that no file can have
        return "datasets"
    if data_suffix(path):
        return "table"
    return BY_SUFFIX.get(Path(path.name.lower().removesuffix(".gz")).suffix, "")


def read_container(path: Path, options: Options, *, header: list[str] | None = None) -> Reading:
    """The rows of any file that this package can open, their fields as they are.

    Args:
        header: column names of a CSV or TSV file that has no header line.
    """
    name = container_format(path)
    if name == "table":
        rows, problems = read_rows(
            path,
            delimiter=options.delimiter,
            quoting=options.quoting,
            header=header or list(options.columns) or None,
            encoding=options.encoding,
        )
        return Reading(rows, problems, table=data_suffix(path) != ".jsonl")
    if not name:
        return Reading([], [_unknown(path)])
    reading: Reading = importlib.import_module(f"abmll.data.formats.{name}").FORMAT.read(path, options)
    return reading


def _unknown(path: Path) -> Problem:
    """What is told of a file whose name says no format: what its content is."""
    text, problems = read_text(path)
    if text is None:
        return errors(problems)[0]
    message = f"the file's format is not known from its name {shown(path.name)}"
    first = text.lstrip()[:4000].partition("\n")[0]
    likely = ".json" if first[:1] == "[" else ".jsonl" if first[:1] == "{" else ".tsv" if "\t" in first else ""
    likely = likely or (".csv" if any(mark in first for mark in ",;|") else "")
    if likely:
        return Problem(
            printable(path.name), 0, "", f"{message}; by its content it may be {likely}", f"Name it {likely}"
        )
    cure = f"Name it {', '.join(KNOWN_SUFFIXES)} (text formats also with .gz) if it is one of them"
    return Problem(printable(path.name), 0, "", message, cure)


def read_binary(path: Path, what: str, starts: tuple[bytes, ...], cure: str) -> tuple[bytes | None, list[Problem]]:
    """The bytes of a file of another format than text; None where it is none, with what it is among the problems.

    Args:
        what: the format, with its article.
        starts: what such files begin with.
        cure: for a damaged one.
    """
    data, problems = read_unpacked(path)
    if data is None or data.startswith(starts):
        return data, problems
    kind = kind_of_bytes(data)
    if not data:
        found = "the file is empty"
    elif kind is not None and not data.startswith(GZIP):
        found, cure = f"the file is {kind.name}, not {what}", kind.cure
    else:
        found = f"the file does not begin as {what} does"
        cure = f"{cure}; a text table is named .csv, .tsv or .jsonl"
    return None, [*problems, Problem(printable(path.name), 0, "", found, cure)]


def missing_library(path: Path, what: str, library: str, extra: str, export: str) -> Reading:
    """What is told where a format needs a library that is not installed."""
    message = f"{what} needs the library {library}, which is not installed"
    cure = f"Install it with the extra: pip install 'abmll[{extra}]'; or {export}"
    return Reading([], [Problem(path.name, 0, "", message, cure)])


def plain(value: Any) -> Any:
    """A value as JSON would hold it: dates in ISO's form, bytes as text where they are UTF-8, decimals as numbers."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
