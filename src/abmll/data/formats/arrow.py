"""Tables of Arrow batches, as Parquet files and `datasets` folders hold them: rows within bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from abmll.core.documents import parse_json
from abmll.core.errors import AbmllError, shown
from abmll.data.contents import FILE_LIMIT
from abmll.data.formats.container import plain
from abmll.data.formats.format import Reading
from abmll.data.problems import Problem
from abmll.data.row import MOST_COLUMNS, MOST_ROWS, Row, too_many_rows

BATCH = 256
"""Rows that are unpacked at a time: a small file may say one long text for all of them."""
_PART = "Take a part of it: fewer rows, and the columns of the text and the label"


def refusal(name: str, columns: list[str], rows: int, values: int, size: int) -> Problem | None:
    """Why a table of such sizes is not read; None if it is.

    rows, values, size: of the whole table, as far as its file says; values are those of all columns, size is in bytes.
    """
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if rows > MOST_ROWS:
        return too_many_rows(name)
    if len(columns) > MOST_COLUMNS:
        message = f"the table has {len(columns):,} columns; at most {MOST_COLUMNS:,} are read"
        return Problem(name, 0, "", message, "Keep the columns of the text and the label")
    if twice:
        message = f"the table names the column {shown(twice[0])} twice"
        return Problem(name, 0, twice[0], message, "Give every column its own name")
    if size > FILE_LIMIT or values > FILE_LIMIT // 8:
        message = f"the table unpacks to more than {FILE_LIMIT:,} bytes, which is too large"
        return Problem(name, 0, "", message, _PART)
    return None


def table_rows(name: str, schema: Any, batches: Iterable[Any]) -> Reading:
    """The rows of Arrow record batches of one schema, counted from 1.

    Raises: whatever a damaged batch does.
    """
    columns = list(schema.names)
    named = {
        column: classes
        for column, classes in class_names(schema.metadata).items()
        # Names such as "0" and "1" say no more than the numbers do.
        if column in columns and not all(text.isdigit() for text in classes)
    }
    rows: list[Row] = []
    size = 0
    for batch in batches:
        size += batch.nbytes
        problem = refusal(name, columns, len(rows) + batch.num_rows, 0, size)
        if problem is not None:
            return Reading([], [problem])
        batch.validate(full=True)  # a text that is no UTF-8, or that ends beyond its buffer
        for start in range(0, batch.num_rows, BATCH):
            for fields in _in_microseconds(batch.slice(start, BATCH)).to_pylist():
                rows.append(Row(len(rows) + 1, _named(fields, named)))
    problems = [] if rows else [Problem(name, 0, "", "the file holds no rows", "Add rows, or leave the file out")]
    return Reading(rows, problems)


def _in_microseconds(batch: Any) -> Any:
    """The batch without the nanoseconds of its times, for which Python has no type."""
    import pyarrow

    for place, field in enumerate(batch.schema):
        if pyarrow.types.is_timestamp(field.type) and field.type.unit == "ns":
            times = batch.column(place).cast(pyarrow.timestamp("us", field.type.tz), safe=False)
            batch = batch.set_column(place, field.name, times)
    return batch


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


def _named(fields: Mapping[str, Any], named: Mapping[str, list[str]]) -> dict[str, Any]:
    row = {column: plain(value) for column, value in fields.items()}
    for column, classes in named.items():
        index = row[column]
        if isinstance(index, int) and not isinstance(index, bool):
            # -1 is how hubs hide a test set's labels
            row[column] = classes[index] if 0 <= index < len(classes) else None
    return row
