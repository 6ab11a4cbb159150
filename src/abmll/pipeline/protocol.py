"""A published table as data: what is run, under which settings, and which numbers were published."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from abmll.core.errors import AbmllError, unknown_name
from abmll.data.problems import raise_errors
from abmll.data.toml_file import Schema, read_toml

Status = Literal["known", "recalled", "uncertain", "missing"]
STATUS: Mapping[Status, str] = {
    "known": "seen in print",
    "recalled": "from memory of the print; not seen again",
    "uncertain": "printed, but what exactly it is of was not",
    "missing": "not published, or not found",
}
TableMetric = Literal["accuracy", "macro_f1", "ece", "ece_per_example", "nll", "brier", "metaicl"]
"""A metric of a cell; "metaicl" is macro-F1 of classification tasks and accuracy of others, as MetaICL has it."""


class Published(Schema):
    """One number of the table. value: None if it is missing. spread: as printed, ± what the paper says."""

    row: str
    metric: TableMetric
    value: float | None = None
    spread: float | None = None
    status: Status
    note: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Published:
        if (self.value is None) != (self.status == "missing"):
            raise ValueError("a number is missing if and only if its status says so")
        return self


class Contender(Schema):
    """One method of the table: the name and options that run it here, and how it differs from the published one."""

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    differs: list[str] = Field(default_factory=list)


class Experiment(Schema):
    """One data set of the table. test: of the suite's test tasks, these alone. run: keys over the protocol's."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    suite: str
    test: list[str] | None = None
    rows: list[str] = Field(default_factory=list)
    run: dict[str, Any] = Field(default_factory=dict)
    published: list[Published] = Field(default_factory=list)


class Protocol(Schema):
    """A whole table.

    Attributes:
        model: what the paper ran it on;
        parameters: how many that has.
        metrics: the table's columns, the standard ones beside the paper's own.
        run: keys of a run file for all experiments.
        rows: the methods by their names in the table.
        differs: what of the published procedure is not followed, for all rows.
        open: what no source says.
    """

    name: str
    title: str
    source: str
    model: str
    parameters: float = Field(gt=0)
    metrics: list[TableMetric]
    run: dict[str, Any]
    rows: dict[str, Contender]
    experiments: list[Experiment]
    differs: list[str] = Field(default_factory=list)
    open: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> Protocol:
        for experiment in self.experiments:
            named = {*experiment.rows, *(one.row for one in experiment.published)}
            unknown = sorted(named - set(self.rows))
            if unknown:
                raise ValueError(
                    f"experiment {experiment.name!r} names the row {unknown[0]!r}, which is not under rows"
                )
        return self

    def rows_of(self, experiment: Experiment) -> dict[str, Contender]:
        """The methods of one experiment; all of the table's if it names none."""
        return {name: self.rows[name] for name in experiment.rows or self.rows}


def protocol_names() -> list[str]:
    """The protocols that come with the library."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def read_protocol(name: str) -> Protocol:
    """The protocol of this name. Raises AbmllError with the nearest name if there is none."""
    if name not in protocol_names():
        raise unknown_name("protocol", name, protocol_names())
    path = _folder() / f"{name}.toml"
    protocol, problems = read_toml(path, Protocol)
    raise_errors(path, problems)
    assert protocol is not None
    if protocol.name != name:
        raise AbmllError(f"{path} calls itself {protocol.name!r}: give the file that name")
    return protocol


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables, key by key; what the second says holds."""
    result = dict(first)
    for key, value in second.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return result


def _folder() -> Path:
    return Path(str(files("abmll.pipeline"))) / "protocols"
