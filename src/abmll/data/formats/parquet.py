"""Parquet files, as hubs serve them. Class labels that `datasets` stored as numbers come out as their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abmll.core.documents import parse_json
from abmll.core.errors import AbmllError
from abmll.data.formats.container import missing_library, plain
from abmll.data.formats.format import Format, Options, Reading
from abmll.data.problems import Problem
from abmll.data.rows import Row

EXPORT = "export it as JSON Lines (pandas: frame.to_json(path, orient='records', lines=True))"


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of the classes of each column, from what `datasets` writes into a schema."""
    try:
        features = parse_json((metadata or {})[b"huggingface"])["info"]["features"]
    except (AbmllError, KeyError, TypeError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {
        name: list(map(str, feature["names"]))
        for name, feature in features.items()
        if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }


def table_rows(name: str, table: Any) -> Reading:
    """The rows of an Arrow table, counted from 1."""
    columns = list(table.column_names)
    names = {
        column: classes
        for column, classes in class_names(table.schema.metadata).items()
        # Names such as "0" and "1" say no more than the numbers do.
        if column in columns and not all(text.isdigit() for text in classes)
    }
    rows = []
    for number, fields in enumerate(table.to_pylist(), start=1):
        fields = {column: plain(value) for column, value in fields.items()}
        for column, classes in names.items():
            index = fields[column]
            if isinstance(index, int) and 0 <= index < len(classes):
                fields[column] = classes[index]
            elif isinstance(index, int):
                fields[column] = None  # -1 is how hubs hide a test set's labels
        rows.append(Row(number, fields))
    problems = [] if rows else [Problem(name, 0, "", "the file holds no rows", "Add rows, or leave the file out")]
    return Reading(rows, problems)


def _read(path: Path, options: Options) -> Reading:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        return missing_library(path, "a Parquet file", "pyarrow", "parquet", EXPORT)
    try:
        table = parquet.read_table(path)
    except FileNotFoundError:
        return Reading([], [Problem(path.name, 0, "", f"there is no file {path}", "Check the path")])
    except (arrow.ArrowException, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        message = f"the Parquet data cannot be read ({first})"
        return Reading([], [Problem(path.name, 0, "", message, "Fetch or export the file again")])
    return table_rows(path.name, table)


FORMAT = Format("a Parquet file; class labels come out as their names (needs the extra parquet)", _read)
