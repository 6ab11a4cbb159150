"""Suites whose tasks lie as a published collection's own scripts leave them, one function a layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from abmll.core.documents import read_toml
from abmll.core.errors import AbmllError
from abmll.data.formats import find_format
from abmll.data.formats.crossfit import prefixes
from abmll.data.formats.format import Options
from abmll.data.formats.metaicl import read_target_task, read_train_task, require_files
from abmll.data.gathered import Rows, task_of
from abmll.data.hub.cache import cached_files
from abmll.data.hub.crossfit import crossfit_rows, crossfit_spec, left_out
from abmll.data.hub.read import read_hub_task
from abmll.data.hub.spec import HUB
from abmll.data.readers import read_task
from abmll.data.split import Side
from abmll.data.task import Task

if TYPE_CHECKING:
    from abmll.data.suite import SuiteSpec

NEEDS_SCRIPTS = "docs/suites.md says how the data are made"
FREE_TEXT = "since they ask for free text"


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
    """CrossFit's few-shot files, or the same draws from the hub's cache where the folder has none of a task.

    Tasks that cannot be judged by choices are left out, and told.
    """
    without = left_out()

    def rows(name: str, side: Side) -> Rows | str:
        found = prefixes(folder, name)
        if found:
            evaluated = ("train", "dev") if side == "train" else ("test",)
            first = [path.with_name(f"{path.name}_{part}.tsv") for path in found for part in evaluated]
            support = [] if side == "train" else [path.with_name(f"{path.name}_train.tsv") for path in found]
            return _from_files("crossfit", first, support)
        described = crossfit_spec(name)
        if described is None:
            return without.get(name, "")
        if not all(cached_files(described, split) for split in described.used):
            return ""
        return crossfit_rows(described, held_out=side != "train")

    fetch = "; or fetch from the hub what it has: abmll tasks fetch SUITE"
    return _collect(spec, folder, rows, f"{NEEDS_SCRIPTS}{fetch}")


def read_unifiedqa(spec: SuiteSpec, folder: Path) -> Collected:
    """UnifiedQA's folders `<set>/{train,dev,test}.tsv`; held-out sets are evaluated on dev, whose labels are public."""

    def rows(name: str, side: Side) -> Rows | str:
        train, dev = folder / name / "train.tsv", folder / name / "dev.tsv"
        return _from_files("unifiedqa", *(([train], []) if side == "train" else ([dev], [train])))

    return _collect(spec, folder, rows, NEEDS_SCRIPTS)


LAYOUTS: dict[str, Callable[[SuiteSpec, Path], Collected]] = {
    "metaicl": read_metaicl,
    "crossfit": read_crossfit,
    "unifiedqa": read_unifiedqa,
    "hub": read_hub,
}
"""How the tasks of a suite are read, by its `format`; "files" is none of these: there a folder's own tasks are."""


def _collect(spec: SuiteSpec, folder: Path, rows_of: Callable[[str, Side], Rows | str], needs: str) -> Collected:
    """The tasks that the lists name.

    Args:
        rows_of: the rows of a task; or why it is left out; or "" if it is not there.
    """
    names = spec.listed()
    sides: dict[Side, list[Task]] = {"train": [], "validation": [], "test": []}
    missing: list[str] = []
    without: dict[str, list[str]] = {}
    for side, tasks in names.items():
        for name in tasks:
            found = Rows([], [], "") if _elsewhere(folder, name) else rows_of(name, side)
            if found == "":
                missing.append(name)
            elif isinstance(found, str):
                without.setdefault(found, []).append(name)
            elif _elsewhere(folder, name):
                sides[side].append(_read_elsewhere(folder, name))
            elif (task := task_of(name, found)) is not None:
                sides[side].append(task)
            else:
                without.setdefault(FREE_TEXT, []).append(name)
    if missing:
        missing = sorted(set(missing))
        listed = ", ".join(missing[:12]) + (f", … ({len(missing)})" if len(missing) > 12 else "")
        where = folder if folder.is_dir() else "this machine"
        raise AbmllError(f"{where} lacks the files of {len(missing)} tasks: {listed}. {needs}.")
    return Collected(sides, [f"left out, {why}: {', '.join(tasks)}" for why, tasks in without.items()])


def _from_files(form: str, evaluated: Sequence[Path], support: Sequence[Path]) -> Rows | str:
    """The rows of some files; "" if there is nothing to be evaluated on."""
    if not any(file.is_file() for file in evaluated):
        return ""
    reader = find_format(form)
    first, pool = (
        [row.fields for file in group if file.is_file() for row in reader.read(file, Options()).rows]
        for group in (evaluated, support)
    )
    return Rows(first, pool, str(evaluated[0].parent))


def _elsewhere(folder: Path, name: str) -> bool:
    """Whether a task is one of the hub, or lies in the folder as a spec of its own."""
    return name.startswith(HUB) or (folder / f"{name}.toml").is_file()


def _read_elsewhere(folder: Path, name: str) -> Task:
    return read_hub_task(name.removeprefix(HUB)) if name.startswith(HUB) else read_task(folder / f"{name}.toml")
