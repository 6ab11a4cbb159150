"""Suites: named sets of tasks, split into those to train on, to choose settings by and to be evaluated on."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from abmll.core.errors import AbmllError, nearest, shown, unknown_name
from abmll.data.collections import LAYOUTS, related
from abmll.data.folder import FolderTasks, read_folder
from abmll.data.formats.metaicl import MetaICLFormat
from abmll.data.hub.spec import hub_relations
from abmll.data.problems import raise_errors
from abmll.data.split import Overlap, Side, hold_out, require_apart, separate
from abmll.data.task import Task
from abmll.data.toml_file import ABSOLUTE_CURE, Schema, inside, read_table, read_toml

SUITE_FILE = "suite.toml"
"""The suite TOML that `load_suite(folder)` obeys if the folder holds one."""
SHARED_VARIABLE = "ABMLL_SHARED"
"""Environment variable: below which folder the `folder` of a shipped suite lies."""


@dataclass(frozen=True, repr=False)
class Suite:
    """Tasks in three sides. notes: what the loader did or let pass, one sentence each."""

    name: str
    train: tuple[Task, ...] = ()
    validation: tuple[Task, ...] = ()
    test: tuple[Task, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        sides = f"{len(self.train)} train, {len(self.validation)} validation, {len(self.test)} test tasks"
        return f"Suite({self.name!r}, {sides})"

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks: train, validation, test."""
        return (*self.train, *self.validation, *self.test)

    def task(self, name: str) -> Task:
        """The task of this name. Raises AbmllError with the nearest name if there is none."""
        found = {task.name: task for task in self.tasks}
        if name not in found:
            raise unknown_name("task", name, found)
        return found[name]

    def require(self, side: Side) -> tuple[Task, ...]:
        """The tasks of one side. Raises AbmllError, saying how to get some, if there are none."""
        tasks: tuple[Task, ...] = getattr(self, side)
        if tasks:
            return tasks
        found = f"suite {self.name!r} has no {side} tasks ({len(self.tasks)} tasks in all)"
        if side == "train":
            raise AbmllError(f"{found}: all are held out. Hold out fewer, or add tasks.")
        fraction = "give held_out = 0.3, or " if side == "test" else ""
        raise AbmllError(f"{found}. Hold some out: {fraction}list {side}_families or {side}_tasks in a suite TOML.")


class SuiteSpec(Schema):
    """The keys of a suite TOML.

    Attributes:
        extends: a shipped suite whose keys hold where this file says nothing else.
        folder: where the task files are, relative to this file.
        format: "files"; or how a published collection lays them out: "metaicl", "crossfit", "unifiedqa", or "hub" for
            tasks of the Hugging Face hub.
        train: lists of task names; with `train` given, unlisted tasks are left out.
        validation: likewise.
        test: likewise.
        test_families: held out; all other tasks are trained on.
        test_tasks: likewise.
        validation_families: likewise.
        validation_tasks: likewise.
        held_out: instead of those, the fraction of tasks to hold out for test, in whole families, drawn by `seed`.
        seed: likewise.
        exclude: tasks to leave out.
        shares_rows: groups of tasks that share rows and so must stand on one side.
        overlap: what to do with inputs found on two sides: "error"; "drop" them from the side that trains; or "keep"
            them.
    """

    name: str | None = Field(default=None, min_length=1)
    extends: str | None = None
    folder: str = "."
    format: Literal["files", "metaicl", "crossfit", "unifiedqa", "hub"] = "files"
    train: list[str] | None = None
    validation: list[str] = Field(default_factory=list)
    test: list[str] = Field(default_factory=list)
    validation_families: list[str] = Field(default_factory=list)
    validation_tasks: list[str] = Field(default_factory=list)
    test_families: list[str] = Field(default_factory=list)
    test_tasks: list[str] = Field(default_factory=list)
    held_out: float | None = None
    seed: int = 0
    exclude: list[str] = Field(default_factory=list)
    shares_rows: list[list[str]] = Field(default_factory=list)
    overlap: Overlap = "error"
    metaicl: MetaICLFormat = MetaICLFormat()

    def listed(self) -> dict[Side, list[str]]:
        """The tasks that the lists name, by side, without those to be left out."""
        lists: dict[Side, list[str]] = {"train": self.train or [], "validation": self.validation, "test": self.test}
        return {side: [name for name in names if name not in self.exclude] for side, names in lists.items()}


def shipped_suites() -> dict[str, Path]:
    """The suite TOMLs that come with the library, by name."""
    folder = Path(str(files("abmll.data"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_suite(
    suite: str | Path,
    *,
    folder: str | Path | None = None,
    held_out: float | None = None,
    seed: int | None = None,
) -> Suite:
    """The suite of a folder of tasks, of a suite TOML, or shipped under a name ("realtasks", "cls-45", …).

    A folder is split by the `suite.toml` in it, if any. Otherwise all its tasks are trained on, unless
    `held_out` is given. No input may stand on two sides, whatever the tasks' names say: the rows are
    compared.

    Args:
        folder: where the task files are; takes precedence over the suite TOML's.
        held_out: the fraction of tasks to hold out, in whole families drawn by `seed`, in place of the split of the
            suite TOML.
        seed: likewise.

    Raises AbmllError for an unknown suite or task, any defect in any file, a task on two sides, and rows on
    two sides.
    """
    path, shipped = _find(suite)
    spec = SuiteSpec(name=path.name, folder=".") if os.path.isdir(path) else read_suite_spec(path)
    if held_out is not None:
        spec = _with_fraction(spec, path, held_out)
    if seed is not None:
        spec = spec.model_copy(update={"seed": seed})
    where = _folder(spec, path, shipped, folder)
    name = spec.name or path.stem
    notes: list[str] = []
    if spec.format in LAYOUTS:
        listed = spec.listed()
        shares_rows = [*spec.shares_rows, *related(), *hub_relations()]
        require_apart(name, spec.overlap, listed, shares_rows)
        sides, notes = LAYOUTS[spec.format](spec, where)
    else:
        found = read_folder(where)
        shares_rows = [*spec.shares_rows, *map(list, found.shares_rows)]
        sides = _split(name, spec, found, shares_rows)
    split, found_notes = separate(name, spec.overlap, sides, shares_rows)
    return Suite(name, **split, notes=(*notes, *found_notes))


def _find(suite: str | Path) -> tuple[Path, bool]:
    """The suite's TOML or folder, and whether it is a shipped one."""
    path, shipped = Path(suite), shipped_suites()
    # A name before a folder of that name: a run's own output may be called like its suite. "./name" is the folder.
    if isinstance(suite, str) and suite in shipped:
        return shipped[suite], True
    if os.path.isdir(path):
        return (path / SUITE_FILE if (path / SUITE_FILE).is_file() else path), False
    if os.path.isfile(path):
        return path, False
    if str(suite) in shipped:
        return shipped[str(suite)], True
    raise no_such_suite(suite, shipped)


def no_such_suite(suite: str | Path, known: Iterable[str]) -> AbmllError:
    """The error for what is neither a folder, nor a file, nor one of the names that are known."""
    path = Path(suite)
    if path.suffix or len(path.parts) > 1 or str(suite).endswith(("/", os.sep)):
        return AbmllError(
            f"there is no suite at {path}: give a folder of tasks, a suite TOML, or a shipped suite's name"
        )
    return AbmllError(f"{unknown_name('suite', str(suite), known)} Nor is there a folder of this name here.")


def read_suite_spec(path: Path) -> SuiteSpec:
    """The keys of a suite TOML, those of the suite that it extends included; raises AbmllError for every mistake."""
    if path.suffix.lower() != ".toml":
        raise AbmllError(f"{path} is one file, not a suite: give its folder, or a suite TOML")
    table, _ = read_table(path)
    base = (table or {}).get("extends")
    spec, problems = read_toml(path, SuiteSpec, _extended(path, base) if isinstance(base, str) else None)
    raise_errors(path, problems)
    assert spec is not None
    lists = spec.train is not None or spec.validation or spec.test
    rules = spec.test_families or spec.test_tasks or spec.validation_families or spec.validation_tasks
    if bool(lists) + bool(rules) + (spec.held_out is not None) > 1:
        raise AbmllError(
            f"{path} splits the tasks in more than one way: keep either the lists (train, validation, test), or "
            "what is held out (test_families, test_tasks, validation_families, validation_tasks), or held_out"
        )
    if spec.format != "files" and not lists:
        raise AbmllError(f'{path}: format = "{spec.format}" needs the lists train and test')
    return spec


def _extended(path: Path, name: str) -> dict[str, Any]:
    """The keys of the shipped suite that another one extends."""
    shipped = shipped_suites()
    if name not in shipped:
        raise AbmllError(f"{path} [extends]: {unknown_name('suite', name, shipped)}")
    table, problems = read_table(shipped[name])
    raise_errors(shipped[name], problems)
    return {key: value for key, value in (table or {}).items() if key != "extends"}


def _with_fraction(spec: SuiteSpec, path: Path, held_out: float) -> SuiteSpec:
    """The spec with its split replaced by a fraction to hold out."""
    if spec.format != "files":
        raise AbmllError(f"{path}: its files are made for one side each, so held_out cannot split them anew")
    split = ("train", "validation", "test", "validation_families", "validation_tasks", "test_families", "test_tasks")
    unset = {key: SuiteSpec.model_fields[key].get_default(call_default_factory=True) for key in split}
    return spec.model_copy(update=unset | {"held_out": held_out})


def _folder(spec: SuiteSpec, path: Path, shipped: bool, folder: str | Path | None) -> Path:
    if folder is not None:
        return Path(folder)
    if spec.format == "hub":
        return path.parent  # nothing is read there
    if spec.format == "crossfit" and shipped and not os.environ.get(SHARED_VARIABLE):
        return path.parent / path.stem  # no folder: all is read from the hub's cache
    if path.is_dir():
        return path
    if shipped:
        base = os.environ.get(SHARED_VARIABLE)
        if base:
            return Path(base) / spec.folder
        raise AbmllError(
            f"the suite {spec.name or path.stem!r} comes without its data: give the folder of the task files "
            f"(folder=…), or set {SHARED_VARIABLE} to the folder above {spec.folder!r}"
        )
    try:
        return inside(path.parent, spec.folder)
    except ValueError as error:
        raise AbmllError(f"{path} [folder]: {error}. {ABSOLUTE_CURE}.") from error


Sides = dict[Side, list[Task]]


def _split(name: str, spec: SuiteSpec, found: FolderTasks, shares_rows: Sequence[Sequence[str]]) -> Sides:
    by_name = {task.name: task for task in found.tasks}
    families = {task.family for task in found.tasks if task.family}
    for listed, known, kind in [
        ([*(spec.train or ()), *spec.validation, *spec.test], by_name, "task"),
        ([*spec.validation_tasks, *spec.test_tasks, *spec.exclude], by_name, "task"),
        ([task for group in spec.shares_rows for task in group], by_name, "task"),
        ([*spec.validation_families, *spec.test_families], families, "family"),
    ]:
        _require_known(name, kind, listed, known)
    tasks = [task for task in found.tasks if task.name not in spec.exclude]
    if spec.train is not None or spec.validation or spec.test:
        held_out = {*spec.validation, *spec.test}
        rest = [task.name for task in tasks if task.name not in held_out]
        train = spec.train if spec.train is not None else rest
        return {
            "train": [by_name[task] for task in train],
            "validation": [by_name[task] for task in spec.validation],
            "test": [by_name[task] for task in spec.test],
        }
    if spec.held_out is not None:
        train_tasks, test_tasks = hold_out(tasks, spec.held_out, spec.seed, shares_rows)
        return {"train": train_tasks, "validation": [], "test": test_tasks}
    sides: Sides = {"train": [], "validation": [], "test": []}
    for task in tasks:
        if task.name in spec.test_tasks or task.family in spec.test_families:
            sides["test"].append(task)
        elif task.name in spec.validation_tasks or task.family in spec.validation_families:
            sides["validation"].append(task)
        else:
            sides["train"].append(task)
    return sides


def _require_known(suite: str, kind: str, names: Sequence[str], known: Collection[str]) -> None:
    unknown = sorted({name for name in names if name not in known})
    if unknown:
        hints = []
        for name in unknown:
            near = nearest(name, known)
            hints.append(shown(name) + (f" (did you mean {near!r}?)" if near else ""))
        raise AbmllError(
            f"suite {suite!r} names {kind} {', '.join(hints)}, which its folder does not hold. "
            f"It holds: {', '.join(sorted(known)) or 'none'}."
        )
