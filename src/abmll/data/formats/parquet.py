"""Parquet files, as hubs serve them. Class labels that `datasets` stored as numbers come out as their names."""

from __future__ import annotations

from pathlib import Path

from abmll.core.errors import printable
from abmll.data.formats.arrow import BATCH, refusal, table_rows
from abmll.data.formats.container import missing_library, read_binary
from abmll.data.formats.format import Format, Options, Reading
from abmll.data.problems import Problem

EXPORT = "export it as JSON Lines (pandas: frame.to_json(path, orient='records', lines=True))"
_DAMAGED = "Fetch or export the file again"


def _read(path: Path, options: Options) -> Reading:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        return missing_library(path, "a Parquet file", "pyarrow", "parquet", EXPORT)
    name = printable(path.name)
    data, problems = read_binary(path, "a Parquet file", (b"PAR1",), _DAMAGED)
    if data is None:
        return Reading([], problems)
    try:
        file = parquet.ParquetFile(arrow.BufferReader(data))
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
        sizes = sum(chunk.num_values for chunk in chunks), sum(chunk.total_uncompressed_size for chunk in chunks)
        problem = refusal(name, file.schema_arrow.names, file.metadata.num_rows, *sizes)
        if problem is not None:
            return Reading([], [problem])
        return table_rows(name, file.schema_arrow, file.iter_batches(batch_size=BATCH))
    except (arrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        return Reading([], [Problem(name, 0, "", f"the Parquet data cannot be read ({first})", _DAMAGED)])


FORMAT = Format("a Parquet file; class labels come out as their names (needs the extra parquet)", _read)
