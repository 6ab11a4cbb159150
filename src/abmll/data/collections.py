"""Suites whose tasks lie as a published collection's own scripts leave them, one function a layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from abmll.core.documents import read_toml
from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.data.formats import find_format
from abmll.data.formats.crossfit import prefixes
from abmll.data.formats.format import CHOICES, INPUT, LABEL, Options
from abmll.data.formats.metaicl import read_target_task, read_train_task, require_files
from abmll.data.hub.read import read_hub_task
from abmll.data.hub.spec import HUB
from abmll.data.overlap import normalised
from abmll.data.readers import read_task
from abmll.data.split import Side
from abmll.data.task import Task

if TYPE_CHECKING:
    from abmll.data.suite import SuiteSpec

MAX_CLASSES = 64
ROWS_PER_CLASS = 4
"""Outputs are a closed set if there are at most so many, each with so many rows on average at least."""
NEEDS_SCRIPTS = "docs/suites.md says how the data are made"


class Collected(NamedTuple):
    """The tasks by side, and what was left out and why, one sentence each."""

    sides: dict[Side, list[Task]]
    notes: list[str]


def related() -> list[list[str]]:
    """Groups of published tasks that are made from the same rows."""
    table = read_toml(Path(str(files("abmll.data"))) / "related.toml")
    return [list(group) for group in table["groups"]]


def read_metaicl(spec: SuiteSpec, folder: Path) -> Collected:
    """MetaICL's preprocessing: `<task>/<task>_<k>_<seed>_<split>.jsonl`."""
    names = spec.listed()
    here = {side: [name for name in tasks if not _elsewhere(folder, name)] for side, tasks in names.items()}
    require_files(folder, here["train"], [*here["validation"], *here["test"]], spec.metaicl)

    def read(side: Side, name: str) -> Task:
        if _elsewhere(folder, name):
            return _read_elsewhere(folder, name)
        reader = read_train_task if side == "train" else read_target_task
        return reader(folder, name, spec.metaicl)

    return Collected({side: [read(side, name) for name in tasks] for side, tasks in names.items()}, [])


def read_hub(spec: SuiteSpec, folder: Path) -> Collected:
    """Tasks of the hub, from the cache that `abmll tasks fetch` fills."""
    names = spec.listed()
    read = {side: [read_hub_task(name.removeprefix(HUB)) for name in tasks] for side, tasks in names.items()}
    return Collected(read, [])


def read_crossfit(spec: SuiteSpec, folder: Path) -> Collected:
    """CrossFit's few-shot files; tasks that ask for free text are left out, and told."""

    def rows(name: str, side: Side) -> tuple[list[Path], list[Path]]:
        found = prefixes(folder, name)
        evaluated = ("train", "dev") if side == "train" else ("test",)
        first = [path.with_name(f"{path.name}_{part}.tsv") for path in found for part in evaluated]
        support = [] if side == "train" else [path.with_name(f"{path.name}_train.tsv") for path in found]
        return first, support

    return _collect(spec, folder, "crossfit", rows)


def read_unifiedqa(spec: SuiteSpec, folder: Path) -> Collected:
    """UnifiedQA's folders `<set>/{train,dev,test}.tsv`; held-out sets are evaluated on dev, whose labels are public."""

    def rows(name: str, side: Side) -> tuple[list[Path], list[Path]]:
        place = folder / name
        return ([place / "train.tsv"], []) if side == "train" else ([place / "dev.tsv"], [place / "train.tsv"])

    return _collect(spec, folder, "unifiedqa", rows)


LAYOUTS: dict[str, Callable[[SuiteSpec, Path], Collected]] = {
    "metaicl": read_metaicl,
    "crossfit": read_crossfit,
    "unifiedqa": read_unifiedqa,
    "hub": read_hub,
}
"""How the tasks of a suite are read, by its `format`; "files" is none of these: there a folder's own tasks are."""


def _collect(
    spec: SuiteSpec, folder: Path, form: str, files_of: Callable[[str, Side], tuple[list[Path], list[Path]]]
) -> Collected:
    names = spec.listed()
    missing = sorted(
        {
            name
            for side, tasks in names.items()
            for name in tasks
            if not _elsewhere(folder, name) and not any(file.is_file() for file in files_of(name, side)[0])
        }
    )
    if missing:
        listed = ", ".join(missing[:12]) + (f", … ({len(missing)})" if len(missing) > 12 else "")
        raise AbmllError(f"{folder} lacks the files of {len(missing)} tasks: {listed}. {NEEDS_SCRIPTS}.")
    sides: dict[Side, list[Task]] = {"train": [], "validation": [], "test": []}
    free: list[str] = []
    for side, tasks in names.items():
        for name in tasks:
            if _elsewhere(folder, name):
                sides[side].append(_read_elsewhere(folder, name))
                continue
            task = _task(name, form, *files_of(name, side))
            if task is None:
                free.append(name)
            else:
                sides[side].append(task)
    notes = [f"left out, since they ask for free text: {', '.join(free)}"] if free else []
    return Collected(sides, notes)


def _task(name: str, form: str, evaluated: Sequence[Path], support: Sequence[Path]) -> Task | None:
    """One task from all its files, repeated rows once; None where its answers are free text.

    Its choices are those that each input lists, or else all its outputs if these are few and come again.
    """
    reader = find_format(form)
    groups = [
        [row.fields for file in group if file.is_file() for row in reader.read(file, Options()).rows]
        for group in (evaluated, support)
    ]
    every = [fields for group in groups for fields in group]
    classes = sorted({str(fields[LABEL]).strip() for fields in every})
    listed = all(CHOICES in fields for fields in every)
    distinct = len({normalised(fields[INPUT]) for fields in every})  # the draws of several seeds overlap
    if not listed and not (2 <= len(classes) <= MAX_CLASSES and len(classes) * ROWS_PER_CLASS <= distinct):
        return None
    rows, pool = ([_example(fields, classes) for fields in group] for group in groups)
    kept = _once([row for row in rows if row is not None])
    tested = {normalised(row.prompt) for row in kept}
    apart = [row for row in _once([row for row in pool if row is not None]) if normalised(row.prompt) not in tested]
    evaluated_rows = tuple(row._replace(id=f"{name}:{number}") for number, row in enumerate(kept))
    pool_rows = tuple(row._replace(id=f"{name}:support:{number}") for number, row in enumerate(apart))
    return Task(name, evaluated_rows, source=str(evaluated[0].parent), support_pool=pool_rows) if kept else None


def _example(fields: Mapping[str, Any], classes: Sequence[str]) -> Example | None:
    choices = tuple(fields.get(CHOICES, classes))
    label = str(fields[LABEL]).strip()
    return Example(fields[INPUT], choices, choices.index(label)) if label in choices else None


def _once(rows: Sequence[Example]) -> list[Example]:
    kept: dict[tuple[str, tuple[str, ...]], Example] = {}
    for row in rows:
        kept.setdefault((normalised(row.prompt), row.choices), row)
    return list(kept.values())


def _elsewhere(folder: Path, name: str) -> bool:
    """Whether a task is one of the hub, or lies in the folder as a spec of its own."""
    return name.startswith(HUB) or (folder / f"{name}.toml").is_file()


def _read_elsewhere(folder: Path, name: str) -> Task:
    return read_hub_task(name.removeprefix(HUB)) if name.startswith(HUB) else read_task(folder / f"{name}.toml")
