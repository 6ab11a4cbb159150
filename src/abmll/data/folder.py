"""The tasks of a folder: every data file and task spec in it, described by an optional manifest.json."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from abmll.core.errors import AbmllError
from abmll.data.formats.container import container_format
from abmll.data.manifest import MANIFEST, described
from abmll.data.problems import Problem, raise_errors
from abmll.data.readers import parse_task
from abmll.data.rows import data_suffix
from abmll.data.spec import read_spec, spec_files
from abmll.data.task import Task
from abmll.data.toml_file import read_table


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


def passed_over(folder: Path) -> list[Path]:
    """Files of a folder in a format that can be read, but not as part of a folder, and that no spec names."""
    taken = {path.resolve() for path in task_files(folder)}
    named = {file.resolve() for path in taken if path.suffix.lower() == ".toml" for file in _named_by(path)}
    return sorted(
        path
        for path in folder.iterdir()
        if container_format(path) and path.is_file() and path.name != MANIFEST and path.resolve() not in taken | named
    )


def _named_by(spec: Path) -> list[Path]:
    read, problems = read_spec(spec)
    return spec_files(spec, read) if read is not None and not problems else []


def task_files(folder: Path) -> list[Path]:
    """The files of a folder that are tasks: specs, and data files that no spec names; sorted by file name.

    Hidden files, TOML files without the key `file` (suites, run configurations) and other formats are passed
    over.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise AbmllError(f"cannot read the folder {folder}: {error.strerror}. Check its rights.") from error
    found, named = [], set()
    for path in (path for path in files if path.suffix.lower() == ".toml"):
        table, _ = read_table(path)
        if table is not None and "file" not in table:
            continue
        found.append(path)
        named |= {file.resolve() for file in _named_by(path)}
    found += [path for path in files if data_suffix(path) and path.resolve() not in named]
    return sorted(found, key=lambda path: path.name)
