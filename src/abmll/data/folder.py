"""The tasks of a folder: every data file and task spec in it, described by an optional manifest.json."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from abmll.core.errors import AbmllError
from abmll.data.problems import Problem, raise_errors
from abmll.data.readers import parse_task
from abmll.data.rows import data_suffix, read_text, task_name
from abmll.data.spec import read_spec, spec_files
from abmll.data.task import Task
from abmll.data.toml_file import read_table

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FolderTasks:
    """What a folder holds. shares_rows: groups of task names that its specs and its manifest declare."""

    tasks: tuple[Task, ...]
    shares_rows: tuple[tuple[str, ...], ...] = ()


def read_folder(folder: Path) -> FolderTasks:
    """All tasks of a folder, sorted by name. Data files that a spec names are read through that spec alone.

    manifest.json: {"tasks": [{"name", "file", "question"?, "family"?, "shares_rows_with"?, "sha256"?, …}]};
    it may describe some of the files, and other keys are ignored. A `sha256` is checked.

    Raises AbmllError for a folder without tasks, a manifest that does not fit the folder, and every error in
    any file.
    """
    if not folder.is_dir():
        raise AbmllError(f"there is no folder {folder}: give the folder that holds the task files")
    manifest = described(folder)
    problems: list[Problem] = []
    tasks: list[Task] = []
    shares_rows = []
    for path in task_files(folder):
        entry = manifest.get(path.name, {})
        parsed = parse_task(path, name=entry.get("name"), question=entry.get("question"), family=entry.get("family"))
        problems += parsed.problems
        if parsed.task is not None:
            tasks.append(parsed.task)
            partners = [*parsed.shares_rows_with, *entry.get("shares_rows_with", ())]
            if partners:
                shares_rows.append((parsed.task.name, *partners))
    raise_errors(folder, problems)
    if not tasks:
        raise AbmllError(
            f"{folder} holds no task: put .jsonl, .csv or .tsv files (or .gz of them) or .toml specs there"
        )
    tasks.sort(key=lambda task: task.name)
    for first, second in pairwise(tasks):
        if first.name == second.name:
            raise AbmllError(
                f"two files make a task named {first.name!r}: {first.source} and {second.source}. Rename one."
            )
    return FolderTasks(tuple(tasks), tuple(shares_rows))


def task_files(folder: Path) -> list[Path]:
    """The files of a folder that are tasks: specs, and data files that no spec names; sorted by file name.

    Hidden files, TOML files without the key `file` (suites, run configurations) and other formats are passed
    over.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found, named = [], set()
    for path in (path for path in files if path.suffix.lower() == ".toml"):
        table, _ = read_table(path)
        if table is not None and "file" not in table:
            continue
        found.append(path)
        spec, problems = read_spec(path)
        if spec is not None and not problems:
            named |= {file.resolve() for file in spec_files(path, spec)}
    found += [path for path in files if data_suffix(path) and path.resolve() not in named]
    return sorted(found, key=lambda path: path.name)


def described(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries of a folder's manifest by file name; empty without a manifest."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    text, problems = read_text(path)
    raise_errors(path, problems)
    try:
        manifest = json.loads(text or "")
    except json.JSONDecodeError as error:
        raise AbmllError(f"{path}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error
    entries = manifest.get("tasks") if isinstance(manifest, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AbmllError(f'{path}: needs a list of objects under "tasks", or remove the file')
    found: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(entries):
        file = entry.get("file")
        for key in ("name", "file", "question", "family"):
            if not isinstance(entry.get(key, ""), str):
                raise AbmllError(f"{path}: {key!r} of task {number} is {entry[key]!r}; write a text")
        if not file or Path(file).name != file:
            raise AbmllError(f"{path}: task {number} names the file {file!r}; name a file of this folder")
        if not (folder / file).is_file():
            raise AbmllError(f"{path} lists {file!r}, which is not in the folder: restore it, or remove the entry")
        if "sha256" in entry and _sha256(folder / file) != entry["sha256"]:
            raise AbmllError(
                f"{folder / file} is not the file that {MANIFEST} was written for (SHA-256 differs): restore it, "
                "or remove its sha256 there if the change is meant"
            )
        found[file] = {"name": task_name(Path(file))} | entry
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
