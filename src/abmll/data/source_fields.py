"""The fields of a data file's rows as they stand there, to be carried beside what is predicted of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abmll.data.formats import TABLE, find_format
from abmll.data.formats.container import read_container
from abmll.data.readers import parse_task
from abmll.data.spec import TaskSpec, read_spec, spec_files


def rows_fields(path: Path, count: int, known_choices: Sequence[str] = ()) -> list[Mapping[str, Any]]:
    """The fields of the first `count` examples that `read_task` makes of a file, in the same order.

    Args:
        known_choices: those that the file was read with; without them, a file that names none has no examples.
    """
    fields = _fields_by_line(path)
    placed = parse_task(path, labelled=False, known_choices=known_choices).placed
    return [fields.get(one.line, {}) for one in placed[:count]]


def _fields_by_line(path: Path) -> Mapping[int, Mapping[str, Any]]:
    """Line to the fields of the row that starts there: of a data file, or of the rows of a TOML spec.

    Nothing for what cannot be read: `read_task` says why.
    """
    spec, file = TaskSpec(file=path.name), path
    if path.suffix.lower() == ".toml":
        found, _ = read_spec(path)
        if found is None:
            return {}
        spec, file = found, spec_files(path, found)[0]
    options = spec.options(False)
    reading = read_container(file, options) if spec.format == TABLE else find_format(spec.format).read(file, options)
    return {row.line: row.fields for row in reading.rows}
