"""Folders that `datasets` wrote with save_to_disk: Arrow data and dataset_info.json. One split is one task file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from abmll.core.documents import read_json
from abmll.core.errors import AbmllError
from abmll.data.formats.container import missing_library
from abmll.data.formats.format import Format, Options, Reading
from abmll.data.formats.parquet import table_rows
from abmll.data.problems import Problem

DICT_FILE = "dataset_dict.json"
STATE_FILE = "state.json"


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
    tables = []
    for file in files:
        try:
            with arrow.memory_map(str(file)) as source:
                tables.append(arrow.ipc.open_stream(source).read_all())
        except (arrow.ArrowException, OSError) as error:
            first = str(error).strip().partition("\n")[0]
            message = f"the Arrow data in {file.name} cannot be read ({first})"
            return Reading([], [Problem(path.name, 0, "", message, "Save the dataset again")])
    return table_rows(path.name, arrow.concat_tables(tables))


def _data_files(path: Path) -> tuple[list[Path], Problem | None]:
    """The Arrow files of a split in their order, or why they cannot be told."""
    if path.is_file():
        return [path], None
    if not (path / STATE_FILE).is_file():
        message = "the folder was not written by save_to_disk: it holds no state.json"
        return [], Problem(path.name, 0, "", message, "Give the folder that dataset.save_to_disk wrote")
    try:
        state: Any = read_json(path / STATE_FILE)
        names = [entry["filename"] for entry in state["_data_files"]]
    except (AbmllError, KeyError, TypeError):
        return [], Problem(path.name, 0, "", "its state.json names no data files", "Save the dataset again")
    if state.get("_indices_data_files"):
        message = "the dataset was saved with a selection of rows beside its data"
        return [], Problem(path.name, 0, "", message, "Save it flat: dataset.flatten_indices().save_to_disk(…)")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (path / name).is_file():
            message = f"its state.json names the data file {name!r}, which is not there"
            return [], Problem(path.name, 0, "", message, "Copy the folder whole, or save the dataset again")
    return [path / name for name in names], None


FORMAT = Format("a folder that datasets' save_to_disk wrote, one split (needs the extra parquet)", _read)
