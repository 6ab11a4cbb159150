"""What a reader of one format is, and what it hands on: rows of named fields, and where in them things stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from abmll.data.layout import Layout
from abmll.data.problems import Problem, errors
from abmll.data.rows import Row, kind_of

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Columns:
    """Where a format says that things stand in its rows. None: look under the usual names.

    Attributes:
        input: a column, or a template over columns.
        choices: a column of lists.
        target: the column of the right choice's index from 0.
        label: the column of the right choice's text.
    """

    input: str | None = None
    choices: str | None = None
    target: str | None = None
    label: str | None = None
    id: str | None = None

    def complete(self, layout: Layout) -> Layout:
        """The layout with what it leaves open filled in. What a spec says of answers replaces both columns here."""
        answered = layout.target is not None or layout.label is not None
        return replace(
            layout,
            input=layout.input or self.input,
            choices=layout.choices if layout.choices is not None else self.choices,
            target=layout.target if answered else self.target,
            label=layout.label if answered else self.label,
            id=layout.id or self.id,
        )


@dataclass(frozen=True)
class Reading:
    """What a reader got from one file.

    Attributes:
        table: every value is text, as in CSV.
        question: what the file says is asked of all its rows.
    """

    rows: list[Row]
    problems: list[Problem] = field(default_factory=list)
    columns: Columns = Columns()
    table: bool = False
    question: str = ""


@dataclass(frozen=True)
class Options:
    """How a file is read.

    Attributes:
        delimiter: of text tables; None where they are to be recognised.
        quoting: likewise.
        encoding: likewise.
        columns: the names of the columns of a table without a header line.
        sheet: of a workbook, by name.
        labelled: whether rows without an answer are left out.
    """

    delimiter: str | None = None
    quoting: bool | None = None
    sheet: str | None = None
    labelled: bool = True
    encoding: str | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """One format's reader.

    Attributes:
        says: one line for people.
        read: the rows of a file.
        fits: for a shape that rows can have in any kind of file: whether these are such rows. The first rows are
            enough.
        fits_document: for a shape of a whole JSON file: whether this is such a file's content.
    """

    says: str
    read: Callable[[Path, Options], Reading]
    fits: Callable[[Sequence[Mapping[str, Any]]], bool] | None = None
    fits_document: Callable[[Any], bool] | None = None


INPUT, CHOICES, LABEL, TARGET = "(input)", "(choices)", "(label)", "(target)"
"""The fields that a format makes of a row; in brackets, so that the row's own fields keep their names."""


def reshape(path: Path, reading: Reading, shape: Shape) -> Reading:
    """Every row's fields with those that `shape` makes of them added.

    Args:
        shape: raises `Misshapen` for a row that it cannot take; rows left out for one reason are told in one line.
    """
    rows, problems = [], list(reading.problems)
    left_out: dict[tuple[str, str, str], list[int]] = {}
    for row in reading.rows:
        try:
            rows.append(Row(row.line, dict(row.fields) | dict(shape(row.fields))))
        except Misshapen as error:
            if error.severity == "warning":
                left_out.setdefault((error.field, error.message, error.cure), []).append(row.line)
            else:
                problems.append(Problem(path.name, row.line, error.field, error.message, error.cure))
    for (name, message, cure), lines in left_out.items():
        count = f"{len(lines)} rows are" if len(lines) > 1 else "the row is"
        problems.append(Problem(path.name, lines[0], name, f"{count} left out: {message}", cure, "warning"))
    if reading.rows and not rows and not errors(problems):
        problems.append(Problem(path.name, 0, "", "no row is left", "See the warnings for why"))
    present = {name for row in rows for name in row.fields}
    made = {"input": INPUT, "choices": CHOICES, "target": TARGET, "label": LABEL, "id": "id"}
    kept = {key: name for key, name in made.items() if name in present}
    return replace(reading, rows=rows, problems=problems, columns=Columns(**kept), table=False)


Shape = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Misshapen(Exception):
    """A row that a format cannot take: the field, what was found, and what to do. A "warning" leaves the row out."""

    def __init__(self, field: str, message: str, cure: str, severity: Severity = "error") -> None:
        super().__init__(message)
        self.field, self.message, self.cure, self.severity = field, message, cure, severity


def answered(label: str | None, options: Options, where: str, cure: str) -> dict[str, Any]:
    """The field of a row's answer. A row without one is left out with a warning where answers are needed."""
    if label is not None:
        return {LABEL: label}
    if options.labelled:
        raise Misshapen(where, "nobody has answered it", cure, "warning")
    return {}


def most_named(labels: Sequence[str]) -> str | None:
    """What most annotators say; None without any, or where two answers are named equally often."""
    counts = Counter(labels).most_common(2)
    if not counts or (len(counts) > 1 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]


def text_of(fields: Mapping[str, Any], name: str, cure: str) -> str:
    """The text in a field. Raises Misshapen if it is absent or no text."""
    if name not in fields:
        raise Misshapen(name, f"the row has no field {name!r}", cure)
    text = fields[name]
    if not isinstance(text, str):
        raise Misshapen(name, f"{name!r} is {kind_of(text)}, not text", cure)
    return text
