"""Folders that `datasets` wrote with save_to_disk: Arrow data and dataset_info.json. One split is one task file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from abmll.core.documents import read_json
from abmll.core.errors import AbmllError, printable
from abmll.data.contents import FILE_LIMIT
from abmll.data.formats.arrow import table_rows
from abmll.data.formats.container import missing_library, read_binary
from abmll.data.formats.format import Format, Options, Reading
from abmll.data.problems import Problem
from abmll.data.row import too_many_rows

DICT_FILE = "dataset_dict.json"
STATE_FILE = "state.json"
_DAMAGED = "Save the dataset again"
_STREAM = b"\xff\xff\xff\xff"
"""What a stream begins with, as `datasets` writes it; Feather files (version 2) are the other form."""


def is_dataset(path: Path) -> bool:
    """Whether a folder is one that save_to_disk wrote, of one split or of several."""
    return os.path.isdir(path) and any((path / name).is_file() for name in (DICT_FILE, STATE_FILE))


def splits(path: Path) -> list[str]:
    """The splits of a folder that holds several; empty for one that holds a single one."""
    try:
        found = read_json(path / DICT_FILE)["splits"]
    except (AbmllError, KeyError, TypeError):
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _read(path: Path, options: Options) -> Reading:
    try:
        import pyarrow as arrow
    except ImportError:
        return missing_library(
            path, "a datasets folder", "pyarrow", "parquet", "export it: dataset.to_json('task.jsonl')"
        )
    if (path / DICT_FILE).is_file():
        named = splits(path)
        known = ", ".join(named) or "none"
        cure = f'Name one: file = "{path.name}/{named[-1] if named else "test"}"'
        return Reading([], [Problem(path.name, 0, "", f"the folder holds several splits ({known})", cure)])
    files, problem = _data_files(path)
    if problem is not None:
        return Reading([], [problem])
    name = printable(path.name)
    batches: list[Iterable[Any]] = []
    schema, size = None, 0
    for file in files:
        data, problems = read_binary(file, "Arrow data", (_STREAM, b"ARROW1"), _DAMAGED)
        if data is None:
            return Reading([], problems)
        size += len(data)
        if size > FILE_LIMIT:
            return Reading([], [too_many_rows(name)])
        try:
            source = arrow.BufferReader(data)
            if data.startswith(_STREAM):
                opened = arrow.ipc.open_stream(source)
                batches.append(opened)
            else:
                opened = arrow.ipc.open_file(source)
                batches.append(map(opened.get_batch, range(opened.num_record_batches)))
            if schema is not None and not schema.equals(opened.schema):
                message = f"{printable(file.name)} has other columns than {printable(files[0].name)}"
                return Reading([], [Problem(name, 0, "", message, _DAMAGED)])
            schema = opened.schema
        except (arrow.ArrowException, OSError, ValueError) as error:
            return Reading([], [_damaged(name, file, error)])
    try:
        return table_rows(name, schema, chain.from_iterable(batches))
    except (arrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        return Reading([], [_damaged(name, files[0], error)])


def _damaged(name: str, file: Path, error: Exception) -> Problem:
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    return Problem(name, 0, "", f"the Arrow data in {printable(file.name)} cannot be read ({first})", _DAMAGED)


def _data_files(path: Path) -> tuple[list[Path], Problem | None]:
    """The Arrow files of a split in their order, or why they cannot be told."""
    if not path.is_dir():
        return [path], None
    if not (path / STATE_FILE).is_file():
        message = "the folder was not written by save_to_disk: it holds no state.json"
        return [], Problem(path.name, 0, "", message, "Give the folder that dataset.save_to_disk wrote")
    try:
        state: Any = read_json(path / STATE_FILE)
        names = [entry["filename"] for entry in state["_data_files"]]
    except (AbmllError, KeyError, TypeError):
        names = []
    if not names:
        return [], Problem(path.name, 0, "", "its state.json names no data files", _DAMAGED)
    if state.get("_indices_data_files"):
        message = "the dataset was saved with a selection of rows beside its data"
        return [], Problem(path.name, 0, "", message, "Save it flat: dataset.flatten_indices().save_to_disk(…)")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not os.path.isfile(path / name):
            message = f"its state.json names the data file {name!r}, which is not there"
            return [], Problem(path.name, 0, "", message, "Copy the folder whole, or save the dataset again")
    return [path / name for name in names], None


FORMAT = Format("a folder that datasets' save_to_disk wrote, one split (needs the extra parquet)", _read)
