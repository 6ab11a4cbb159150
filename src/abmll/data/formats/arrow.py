"""Tables of Arrow batches, as Parquet files and `datasets` folders hold them: rows within bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

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

    Args:
        rows: of the whole table, as far as its file says; values are those of all columns, size is in bytes.
        values: likewise.
        size: likewise.
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

    It raises whatever a damaged batch does.
    """
    columns = list(schema.names)
    named = {
        column: classes
        for column, classes in class_names(schema.metadata).items()
        # Names such as "0" and "1" say no more than the numbers do.
        if column in columns and not all(text.isdigit() for text in classes)
    }
    strange = next((field for field in schema if not _is_read(field.type)), None)
    if strange is not None:
        message = f"the column {shown(strange.name)} is of the type {shown(str(strange.type))}, which is not read"
        return Reading([], [Problem(name, 0, strange.name, message, "Leave it out, or save it as plain values")])
    rows: list[Row] = []
    size = values = 0
    for batch in batches:
        size += batch.nbytes + sum(map(_spread, batch.columns))
        values += sum(map(_values, batch.columns))
        problem = refusal(name, columns, len(rows) + batch.num_rows, values, size)
        if problem is not None:
            return Reading([], [problem])
        batch.validate(full=True)  # a text that is no UTF-8, or that ends beyond its buffer
        for start in range(0, batch.num_rows, BATCH):
            for fields in _in_microseconds(batch.slice(start, BATCH)).to_pylist():
                rows.append(Row(len(rows) + 1, _named(fields, named)))
    problems = [] if rows else [Problem(name, 0, "", "the file holds no rows", "Add rows, or leave the file out")]
    return Reading(rows, problems)


def _is_read(kind: Any, *, within: bool = False) -> bool:
    """Whether a column's type is one whose values take no more memory than its bytes say.

    Views and run-ends say one value many times, and so do dictionaries. Of these, columns of texts are read, which
    `_spread` counts.
    """
    from pyarrow import BaseExtensionType, types

    if types.is_string_view(kind) or types.is_binary_view(kind):
        return not within
    if isinstance(kind, BaseExtensionType):
        return _is_read(kind.storage_type, within=within)
    if types.is_dictionary(kind):
        return not within and _is_read(kind.value_type, within=True) and not types.is_nested(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_read(kind.value_type, within=True)
    if types.is_map(kind):
        return _is_read(kind.key_type, within=True) and _is_read(kind.item_type, within=True)
    if types.is_struct(kind):
        return all(_is_read(kind.field(place).type, within=True) for place in range(kind.num_fields))
    texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    others = (types.is_primitive, types.is_null, types.is_fixed_size_binary, types.is_decimal)
    return any(is_kind(kind) for is_kind in (*texts, *others))


def _spread(column: Any) -> int:
    """Bytes that the texts of a column take when each stands in its own row, where the column keeps equal ones once."""
    from pyarrow import compute, types

    if types.is_string_view(column.type) or types.is_binary_view(column.type):
        places = np.frombuffer(column.buffers()[1], np.int32).reshape(-1, 4)  # of each the length comes first
        return int(places[column.offset : column.offset + len(column), 0].astype(np.int64).clip(0).sum())
    if not types.is_dictionary(column.type) or types.is_primitive(column.type.value_type):
        return 0
    lengths = compute.binary_length(column.dictionary).take(column.indices)
    return int(compute.sum(lengths).as_py() or 0)


def _values(column: Any) -> int:
    """How many values a column holds, those within lists counted each: nulls take no bytes at all."""
    from pyarrow import BaseExtensionType, types

    if isinstance(column.type, BaseExtensionType):
        return _values(column.storage)
    if types.is_struct(column.type):
        return len(column) + sum(_values(column.field(place)) for place in range(column.type.num_fields))
    if types.is_map(column.type):
        return len(column) + _values(column.keys) + _values(column.items)
    if types.is_nested(column.type):
        return len(column) + _values(column.values)
    return len(column)


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
