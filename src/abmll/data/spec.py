"""A task described in TOML: which file, what is asked, and how its columns make an example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from abmll.core.errors import AbmllError
from abmll.data.formats import TABLE, find_format
from abmll.data.formats.format import Options
from abmll.data.layout import Layout
from abmll.data.problems import Problem
from abmll.data.template import Template
from abmll.data.toml_file import ABSOLUTE_CURE, Schema, inside, read_toml


class TaskSpec(Schema):
    """The keys of a task spec. Only `file` is needed; docs/tasks.md shows each at work.

    Attributes:
        file: the data file, relative to the spec.
        support_file: a second one, from which support sets are drawn.
        name: of the task; by default the spec's file name.
        question: as in `Task`.
        family: likewise.
        input: a column, or a template such as "Premise: {premise}\\nHypothesis: {hypothesis}".
        choices: a column, or the choices themselves, which may be templates too: ["{ending0}", "{ending1}"].
        target: the column with the right choice's index, counted from `first_index`.
        label: the column with the right choice's text.
        labels: label in the file -> choice.
        id: the column with the row's id.
        format: a reader of `abmll.data.formats` by its name, such as "unifiedqa"; "table" (the default) reads named
            fields of whatever kind of file it is.
        delimiter: of CSV and TSV; by default they are recognised, and the first line names the columns.
        quoting: likewise.
        encoding: likewise.
        columns: likewise.
        sheet: of an Excel workbook.
        split: the column that says which rows are for training (adapted on) and which for testing (evaluated on); by
            default one of a usual name whose values are all train, validation or test; false takes all rows alike.
        shares_rows_with: tasks that must stand on the same side of a split as this one.
    """

    file: str
    support_file: str | None = None
    name: str | None = Field(default=None, min_length=1)
    question: str = ""
    family: str = ""
    input: str | None = None
    choices: str | list[str] | None = None
    target: str | None = None
    label: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    id: str | None = None
    first_index: int = 0
    format: str = TABLE
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    quoting: bool | None = None
    encoding: str | None = Field(default=None, min_length=1)
    columns: list[str] | None = Field(default=None, min_length=1)
    split: str | Literal[False] | None = None
    sheet: str | None = Field(default=None, min_length=1)
    shares_rows_with: list[str] = Field(default_factory=list)

    def options(self, labelled: bool) -> Options:
        """How the file is read."""
        return Options(self.delimiter, self.quoting, self.sheet, labelled, self.encoding, tuple(self.columns or ()))

    def layout(self, labelled: bool, known_choices: Sequence[str] = ()) -> Layout:
        """Where the spec says that things stand."""
        choices = tuple(self.choices) if isinstance(self.choices, list) else self.choices
        return Layout(
            self.input,
            choices,
            self.target,
            self.label,
            self.id,
            self.labels,
            self.first_index,
            labelled,
            tuple(known_choices),
        )


def read_spec(path: Path) -> tuple[TaskSpec | None, list[Problem]]:
    """The spec in a TOML file, or None and all that is wrong with it."""
    spec, problems = read_toml(path, TaskSpec)
    if spec is not None:
        problems += _check(path, spec)
    return spec, problems


def spec_files(path: Path, spec: TaskSpec) -> list[Path]:
    """The files of the rows and of the support pool. Raises ValueError if a path leaves the spec's folder."""
    return [inside(path.parent, name) for name in (spec.file, spec.support_file) if name is not None]


def _check(path: Path, spec: TaskSpec) -> list[Problem]:
    problems = []

    def problem(key: str, message: str, cure: str) -> None:
        problems.append(Problem(path.name, 0, key, message, cure))

    try:
        spec_files(path, spec)
    except ValueError as error:
        problem("file", str(error), ABSOLUTE_CURE)
    if spec.format != TABLE:
        try:
            find_format(spec.format)
        except AbmllError as error:
            problem("format", str(error).removesuffix("."), 'Leave it out for named fields ("table")')
    if spec.target is not None and spec.label is not None:
        problem("label", "both target and label are given", "Keep one: target is an index, label is a text")
    for key in ("target", "label", "id"):
        if "{" in (getattr(spec, key) or ""):
            problem(key, f"{getattr(spec, key)!r} is a template, but {key} names one column", "Write its bare name")
    texts = [("input", spec.input)] if spec.input is not None else []
    if isinstance(spec.choices, str):
        texts.append(("choices", spec.choices))
        if "{" in spec.choices:
            problem("choices", "one template cannot make several choices", 'Write a list: ["{a}", "{b}"]')
    elif spec.choices is not None:
        texts += [("choices", text) for text in spec.choices]
    for key, text in texts:
        try:
            Template(text)
        except ValueError as error:
            problem(key, str(error), "Correct the template")
    return problems
