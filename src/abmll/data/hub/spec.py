"""What a task of the hub is: repository, pinned revision, files, columns, row counts, licence, citation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from abmll.core.errors import AbmllError, unknown_name
from abmll.data.hub.crossfit_line import CrossFitLine
from abmll.data.problems import raise_errors
from abmll.data.spec import TaskSpec
from abmll.data.toml_file import Schema, read_table, read_toml

CONVERTED = "refs/convert/parquet"
"""The hub's own conversion to Parquet, for data sets that once needed a loading script; no code runs."""
HUB = "hub:"
"""What stands before a hub task's name in a suite whose other tasks lie in a folder."""
EACH = "each"
"""The folder of specs that are one file for many tasks, and the key with what tells these apart."""
_FOLDER = Path(str(files("abmll.data"))) / "hub" / "tasks"
Kind = Literal["text", "number", "flag", "list", "object"]


class HubSplit(Schema):
    """files: a pattern of paths in the repository, such as "data/train-*.parquet". rows: of all of them, if known."""

    files: str = Field(pattern=r"^[^/].*\.(parquet|jsonl|json|csv|tsv)$")
    rows: int | None = Field(default=None, ge=1)


class HubSpec(Schema):
    """The keys of a hub task's TOML.

    Attributes:
        version: of the spec; a change of what is read raises it.
        repo: the data set and a commit of it, or "refs/convert/parquet".
        revision: likewise.
        judge: the splits that the task is evaluated on and adapts on.
        support: likewise.
        columns: those that must be there, with their kinds.
        read: keys of a task spec (docs/tasks.md).
        crossfit: in place of `read`, how CrossFit makes its few-shot lines of the rows.
        metric: what the field reports.
        licence: of the data, or "unknown" and where that was looked for.
        shares_rows_with: other hub tasks made from the same rows.
    """

    version: int = Field(ge=1)
    name: str = Field(pattern=r"^[a-z0-9][A-Za-z0-9_-]*$")
    family: str = Field(min_length=1)
    question: str
    metric: Literal["accuracy", "macro-F1", "Matthews correlation", "Pearson correlation"]
    licence: str = Field(min_length=1)
    citation: str = Field(min_length=1)
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str
    judge: str
    support: str | None = None
    shares_rows_with: list[str] = Field(default_factory=list)
    columns: dict[str, Kind]
    splits: dict[str, HubSplit]
    read: dict[str, Any] = Field(default_factory=dict)
    crossfit: CrossFitLine | None = None

    @model_validator(mode="after")
    def _whole(self) -> HubSpec:
        if self.revision != CONVERTED and not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(f"the revision is {self.revision!r}: write a whole commit of 40 digits, or {CONVERTED!r}")
        for split in (self.judge, self.support):
            if split is not None and split not in self.splits:
                raise ValueError(f"there is no split {split!r} under splits")
        if self.crossfit is not None and (self.read or self.support is None):
            raise ValueError("a CrossFit task is drawn from `support` and read by `crossfit` alone")
        if self.crossfit is not None and (self.crossfit.carve is not None) != (self.judge == self.support):
            raise ValueError("carve parts a set of one split: judge and support must be the same then, and only then")
        self.task_spec("x.parquet")
        return self

    def task_spec(self, file: str) -> TaskSpec:
        """The spec that reads one of its files."""
        return TaskSpec.model_validate({"file": file, "name": self.name} | self.read)

    @property
    def used(self) -> dict[str, HubSplit]:
        """The splits that are read, by name."""
        return {name: self.splits[name] for name in (self.support, self.judge) if name is not None}


@cache
def hub_specs() -> dict[str, Path]:
    """The specs that come with the library, by name."""
    found: dict[str, Path] = {}
    for path in sorted(_FOLDER.rglob("*.toml")):
        names = [path.stem] if path.parent.name != EACH else [_named(table, each) for table, each in _each(path)]
        found |= dict.fromkeys(names, path)
    return dict(sorted(found.items()))


@cache
def hub_spec(name: str) -> HubSpec:
    """The spec of this name. Raises AbmllError with the nearest name if there is none."""
    known = hub_specs()
    if name not in known:
        raise unknown_name("hub task", name, known)
    path = known[name]
    if path.parent.name == EACH:
        table, each = next((table, each) for table, each in _each(path) if _named(table, each) == name)
        return HubSpec.model_validate(_filled({key: value for key, value in table.items() if key != EACH}, each))
    spec, problems = read_toml(path, HubSpec)
    raise_errors(path, problems)
    assert spec is not None
    if spec.name != name:
        raise AbmllError(f"{path} names its task {spec.name!r}: give the file that name")
    return spec


def _each(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """A file in the folder `each`, once for every name in its list of that key: many tasks that differ in a word."""
    table = _table(path)
    return ((table, each) for each in table[EACH])


@cache
def _table(path: Path) -> dict[str, Any]:
    table, problems = read_table(path)
    raise_errors(path, problems)
    assert table is not None
    return table


def _named(table: dict[str, Any], each: str) -> str:
    return str(_filled(table["name"], each))


def _filled(value: Any, each: str) -> Any:
    """The value with `{each}` in all its texts replaced."""
    if isinstance(value, dict):
        return {key: _filled(item, each) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, each) for item in value]
    return value.replace("{each}", each) if isinstance(value, str) else value


@cache
def hub_relations() -> tuple[tuple[str, ...], ...]:
    """Groups of hub tasks that share rows, under their own names and as suites with other tasks name them."""
    groups = [(name, *spec.shares_rows_with) for name in hub_specs() if (spec := hub_spec(name)).shares_rows_with]
    return (*groups, *(tuple(f"{HUB}{name}" for name in group) for group in groups))
