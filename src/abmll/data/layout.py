"""From rows of named fields to examples: which field is the input, which the choices, which the answer."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from abmll.core.types import Example
from abmll.data.problems import Problem, errors
from abmll.data.rows import Row, kind_of
from abmll.data.template import Template, cell_text

INPUT_NAMES = ("input", "prompt", "text")
CHOICES_NAMES = ("options", "choices")
TARGET_NAMES = ("target",)
LABEL_NAMES = ("label", "answer", "output")
ID_NAMES = ("id",)
USUAL_NAMES = INPUT_NAMES + CHOICES_NAMES + TARGET_NAMES + LABEL_NAMES + ID_NAMES
UNKNOWN_TARGET = -1
"""The target of a row without a label, where such rows are allowed."""


@dataclass(frozen=True)
class Layout:
    """Where in a row things stand. What is None is looked for under its usual names.

    input: a column, or a template over columns.
    choices: a column (a list, or text with `|` between), or the choices themselves (texts or templates).
    target: the column that holds the right choice's index, counted from `first_index`.
    label: the column that holds the right choice's text, renamed by `labels` first.
    labels: label as it stands in the file -> choice.
    labelled: False lets rows have no label; their target is then -1.
    known_choices: the choices of a file that names none, in place of its labels.
    """

    input: str | None = None
    choices: str | tuple[str, ...] | None = None
    target: str | None = None
    label: str | None = None
    id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    first_index: int = 0
    labelled: bool = True
    known_choices: tuple[str, ...] = ()


class PlacedExample(NamedTuple):
    """An example and the line it stands on."""

    line: int
    example: Example


def place_examples(
    file: str, rows: Sequence[Row], layout: Layout, *, table: bool, whole: bool = True, name: str
) -> tuple[list[PlacedExample], list[Problem]]:
    """Every row that makes an example, and a problem for everything that keeps one from it.

    table: the rows come from CSV or TSV, so every value is text.
    whole: these are all rows of the file, so that what the labels are can be concluded from them.
    name: the task's, for the ids of rows that have none ("name:line").
    """
    converter = _Converter(file, rows, layout, table, whole)
    examples = []
    if not errors(converter.problems):
        for row in rows:
            example = converter.convert(row, f"{name}:{row.line}")
            if example is not None:
                examples.append(PlacedExample(row.line, example))
    return examples, converter.problems


class _Converter:
    """Finds the columns once for the file, then turns row after row into an example."""

    def __init__(self, file: str, rows: Sequence[Row], layout: Layout, table: bool, whole: bool) -> None:
        self.file, self.layout, self.table, self.whole = file, layout, table, whole
        self.problems: list[Problem] = []
        self.first_line = rows[0].line if rows else 0
        self.known = list(dict.fromkeys(name for row in rows for name in row.fields))
        self.id = self._find("id", layout.id, ID_NAMES, needed=layout.id is not None)
        self.input = self._find("input", layout.input, INPUT_NAMES)
        self.target = None if layout.label else self._find("target", layout.target, TARGET_NAMES, needed=False)
        self.label = None if layout.target else self._find("label", layout.label, LABEL_NAMES, needed=False)
        if self.target is None and self.label is None and layout.labelled and not self.problems:
            self._missing("target", TARGET_NAMES + LABEL_NAMES)
        self.choice_columns: list[str] = []
        self.choices = self._find_choices(rows)

    # Columns.

    def _find(self, what: str, named: str | None, usual: Sequence[str], needed: bool = True) -> Template | None:
        if named is not None:
            template = Template(named)
            for column in template.columns:
                if column not in self.known:
                    self._missing(column, (column,), spec_field=what)
            return template
        present = [name for name in usual if name in self.known]
        if len(present) > 1:
            message = f"both {present[0]!r} and {present[1]!r} could be the {what}"
            self._problem(self.first_line, what, message, f"Rename one, or set {what} in a TOML spec")
        if not present:
            if needed:
                self._missing(what, usual)
            return None
        return Template(present[0])

    def _find_choices(self, rows: Sequence[Row]) -> Template | tuple[Template | str, ...] | None:
        """The column of choices, or the choices themselves (texts or templates); None for numbered columns."""
        named = self.layout.choices
        if isinstance(named, str):
            return self._find("choices", named, ())
        if named is not None:
            templates = tuple(Template(text, bare_is_column=False) for text in named)
            for template in templates:
                for column in template.columns:
                    if column not in self.known:
                        self._missing(column, (column,), spec_field="choices")
            return templates
        if any(name in self.known for name in CHOICES_NAMES):
            return self._find("options", None, CHOICES_NAMES)
        numbered = [name for name in self.known if re.fullmatch(r"(choice|option)_\d+", name)]
        if numbered:
            self.choice_columns = sorted(numbered, key=lambda name: int(name.rpartition("_")[2]))
            return None
        return self._labels_as_choices(rows)

    def _labels_as_choices(self, rows: Sequence[Row]) -> tuple[Template | str, ...] | None:
        if self.layout.labels:
            return tuple(dict.fromkeys(self.layout.labels.values()))
        if self.layout.known_choices:
            return self.layout.known_choices
        if self.label is None:
            if not self.problems:
                self._missing("options", CHOICES_NAMES)
            return None
        found = [row.fields[self.label.columns[0]] for row in rows if self.label.columns[0] in row.fields]
        if any(isinstance(label, (int, float)) and not isinstance(label, bool) for label in found):
            message = "the label is a number, and there are no choices to look it up in"
            cure = "Add a field 'options' and name the number 'target', or map numbers to texts under labels in a spec"
            self._problem(self.first_line, "label", message, cure)
            return None
        texts = [cell_text(label).strip() for label in found if isinstance(label, (str, bool))]
        distinct = sorted({text for text in texts if text})
        if not self.whole:
            return None
        if len(distinct) == 1:
            message = f"all {len(texts)} rows have one class only, {distinct[0]!r}"
            self._problem(0, self.label.columns[0], message, "Add rows of the other classes, or list all choices")
            return None
        if len(texts) > 8 and len(distinct) > len(texts) / 2:
            message = f"{len(texts)} rows have {len(distinct)} different labels, and no field 'options'"
            self._problem(self.first_line, "label", message, "Give every row its choices in a field 'options'")
            return None
        if distinct and all(text.isdigit() for text in distinct):
            message = f"the choices, taken from the labels, are bare numbers ({', '.join(distinct)})"
            cure = "Map them to words under labels in a TOML spec: the model reads the words"
            self._problem(self.first_line, "label", message, cure, "warning")
        return tuple(distinct)

    # Rows.

    def convert(self, row: Row, fallback_id: str) -> Example | None:
        before = len(self.problems)
        prompt = self._text(row, self.input, "input")
        if prompt is not None and not prompt.strip():
            self._problem(row.line, self._name(self.input), "the input is empty", "Fill it, or remove the row")
        choices = self._row_choices(row)
        target = self._row_target(row, choices) if choices else None
        identifier = self._text(row, self.id, "id") if self.id and self.id.columns[0] in row.fields else None
        if len(self.problems) > before or prompt is None or choices is None or target is None:
            return None
        return Example(prompt, choices, target, "", identifier or fallback_id)

    def _text(self, row: Row, template: Template | None, what: str) -> str | None:
        assert template is not None
        try:
            return template.render(row.fields)
        except KeyError as error:
            self._missing_in_row(row, str(error.args[0]))
        except TypeError:
            kinds = ", ".join(f"{name!r} is {kind_of(row.fields[name])}" for name in template.columns)
            self._problem(row.line, self._name(template), f"the {what} is not text: {kinds}", "Write it as text")
        return None

    def _row_choices(self, row: Row) -> tuple[str, ...] | None:
        field_name = "options"
        if self.choice_columns:
            cells = [self._choice_cell(row, name) for name in self.choice_columns]
            if None in cells:
                return None
            while cells and not (cells[-1] or "").strip():
                cells.pop()
            choices, field_name = tuple(cell or "" for cell in cells), self.choice_columns[0]
        elif isinstance(self.choices, tuple):
            parts = [self._text(row, part, "choice") if isinstance(part, Template) else part for part in self.choices]
            if None in parts:
                return None
            choices = tuple(part for part in parts if part is not None)
        elif self.choices is not None:
            field_name = self.choices.columns[0]
            found = self._listed(row, field_name)
            if found is None:
                return None
            choices = found
        else:
            return None
        before = len(self.problems)
        if len(choices) < 2:
            message = f"the row has {len(choices)} choice{'s' if len(choices) != 1 else ''}, at least 2 are needed"
            self._problem(row.line, field_name, message, "Add the others, or remove the row")
        for position, choice in enumerate(choices):
            if not choice.strip():
                message = f"choice {position} (counted from 0) is empty"
                self._problem(row.line, field_name, message, "Fill it, or remove it and adjust the target")
        for choice in sorted({choice for choice in choices if choice.strip() and choices.count(choice) > 1}):
            self._problem(row.line, field_name, f"the choice {choice!r} stands there twice", "Make the choices differ")
        return choices if len(self.problems) == before else None

    def _choice_cell(self, row: Row, column: str) -> str | None:
        """One numbered choice; "" where the row has none."""
        if row.fields.get(column) is None:
            return ""
        return self._text(row, Template(column), "choice")

    def _listed(self, row: Row, column: str) -> tuple[str, ...] | None:
        if column not in row.fields:
            self._missing_in_row(row, column)
            return None
        value = row.fields[column]
        if self.table:
            return tuple(part.strip() for part in value.split("|")) if value.strip() else ()
        if not isinstance(value, list):
            self._problem(row.line, column, f"the choices are {kind_of(value)}, not a list", 'Write ["a", "b", …]')
            return None
        for position, choice in enumerate(value):
            if not isinstance(choice, str):
                message = f"choice {position} (counted from 0) is {kind_of(choice)}, not text"
                self._problem(row.line, column, message, "Put it in double quotes")
                return None
        return tuple(value)

    def _row_target(self, row: Row, choices: tuple[str, ...]) -> int | None:
        by_index = self._index(row, len(choices)) if self._has(row, self.target) else None
        by_text = self._label_index(row, choices) if self._has(row, self.label) else None
        if by_index is not None and by_text is not None and by_index != by_text:
            message = f"the label says {choices[by_text]!r}, but the target is {choices[by_index]!r}"
            self._problem(row.line, self._name(self.label), message, "Correct one, or remove it")
        if not self._has(row, self.target) and not self._has(row, self.label):
            if not self.layout.labelled:
                return UNKNOWN_TARGET
            self._missing_in_row(row, self._name(self.target or self.label))
        return by_index if by_index is not None else by_text

    def _has(self, row: Row, column: Template | None) -> bool:
        """Whether the row says anything there; where labels may lack, an empty cell or null says nothing."""
        if column is None or column.columns[0] not in row.fields:
            return False
        return self.layout.labelled or row.fields[column.columns[0]] not in (None, "")

    def _index(self, row: Row, num_choices: int) -> int | None:
        name = self._name(self.target)
        value = row.fields[name]
        if self.table and re.fullmatch(r"\s*[+-]?\d+\s*", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            shown = f" ({cell_text(value)!r})" if isinstance(value, (bool, float, str)) else ""
            cure = "Write the right choice's index as a whole number; or its text, in a field named 'label'"
            self._problem(row.line, name, f"the target is {kind_of(value)}{shown}, not a whole number", cure)
            return None
        index = value - self.layout.first_index
        if not 0 <= index < num_choices:
            first = self.layout.first_index
            message = f"the target {value} is out of range: {num_choices} choices are counted {first} … "
            message += str(first + num_choices - 1)
            cure = "Correct it" + ("" if first else "; if targets count from 1, set first_index = 1 in a TOML spec")
            self._problem(row.line, name, message, cure)
            return None
        return index

    def _label_index(self, row: Row, choices: tuple[str, ...]) -> int | None:
        name = self._name(self.label)
        raw = self._text(row, self.label, "label")
        if raw is None:
            return None
        if not raw.strip():
            self._problem(row.line, name, "the label is empty", "Fill it, or remove the row")
            return None
        label = raw.strip()
        if self.layout.labels:
            if label not in self.layout.labels:
                message = f"the label {label!r} is not under labels in the spec"
                self._problem(row.line, name, message, f"Add it there; known are: {_listing(self.layout.labels)}")
                return None
            label = self.layout.labels[label]
        stripped = [choice.strip() for choice in choices]
        if label.strip() not in stripped:
            near = difflib.get_close_matches(label, stripped, n=1) or [
                choice for choice in stripped if choice.casefold() == label.casefold()
            ]
            cure = f"Did you mean {near[0]!r}? " if near else ""
            if isinstance(row.fields.get(name), int):
                cure = "A label is a choice's text; if the number is its index, name the field 'target'. "
            self._problem(
                row.line,
                name,
                f"the label {label!r} is not among the choices",
                f"{cure}The choices are: {_listing(choices)}",
            )
            return None
        return stripped.index(label.strip())

    # Problems.

    def _name(self, template: Template | None) -> str:
        return template.columns[0] if template is not None else ""

    def _problem(self, line: int, name: str, message: str, cure: str, severity: Any = "error") -> None:
        self.problems.append(Problem(self.file, line, name, message, cure, severity))

    def _missing(self, what: str, names: Sequence[str], spec_field: str = "") -> None:
        """A field that no row has."""
        quoted = " or ".join(repr(name) for name in names)
        cure = self._nearest(names, self.known)
        where = f", which {spec_field} in the spec names" if spec_field else ""
        self._problem(self.first_line, what, f"no row has a field {quoted}{where}", cure)

    def _missing_in_row(self, row: Row, name: str) -> None:
        self._problem(row.line, name, f"the row has no field {name!r}", self._nearest((name,), list(row.fields)))

    def _nearest(self, names: Sequence[str], found: Sequence[str]) -> str:
        free = [name for name in found if name not in USUAL_NAMES]
        near = [match for name in names for match in difflib.get_close_matches(name, free, n=1)]
        hint = f"Did you mean {near[0]!r} to be it? Rename it, or name it in a TOML spec. " if near else ""
        return f"{hint}The fields found are: {_listing(found)}"


def _listing(names: Any) -> str:
    texts = [repr(name) for name in names]
    return ", ".join(texts[:12]) + (f", … ({len(texts)})" if len(texts) > 12 else "")
