"""From rows of named fields to examples."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from abmll.core.documents import parse_json
from abmll.core.errors import Unreadable, shown
from abmll.core.example import Example
from abmll.data.contents import FILE_LIMIT
from abmll.data.findings import Findings, listing
from abmll.data.labels import is_blank, is_missing, look_up, match_label
from abmll.data.layout import Layout
from abmll.data.problems import Problem, errors, listed_lines
from abmll.data.roles import MOST_CHOICES, Roles
from abmll.data.row import Row, kind_of
from abmll.data.template import Template, cell_text

UNKNOWN_TARGET = -1
"""The target of a row without a label, where such rows are allowed."""
LONGEST_TEXT = 1_000_000
"""Characters of the longest input or choice."""


class PlacedExample(NamedTuple):
    """An example and the line it stands on."""

    line: int
    example: Example


def place_examples(
    file: str, rows: Sequence[Row], layout: Layout, *, table: bool, whole: bool = True, name: str
) -> tuple[list[PlacedExample], list[Problem]]:
    """Every row that makes an example, and a problem for everything that keeps one from it.

    Args:
        table: the rows come from CSV or TSV, so every value is text.
        whole: these are all rows of the file, so that what the labels are can be concluded from them.
        name: the task's, for the ids of rows that have none ("name:line").
    """
    findings = Findings(file)
    roles = Roles(findings, rows, layout, table, whole)
    examples: list[PlacedExample] = []
    if errors(findings.problems):
        return examples, findings.problems
    converter = _Converter(findings, roles, layout, table)
    for row in rows:
        example = converter.convert(row, f"{name}:{row.line}")
        if example is not None:
            examples.append(PlacedExample(row.line, example))
        if findings.full:
            findings.add(row.line, "", f"the rows after this one were not looked at: {len(findings.problems):,} "
                         "problems are enough", "Correct the cause, and check again")  # fmt: skip
            break
    converter.tell_mismatches(len(rows))
    return examples, findings.problems


class _Mismatch(NamedTuple):
    """A label that is no choice of its row."""

    line: int
    value: Any
    label: str
    choices: tuple[str, ...]


class _Converter:
    """Turns row after row into an example."""

    def __init__(self, findings: Findings, roles: Roles, layout: Layout, table: bool) -> None:
        self.findings, self.roles, self.layout, self.table = findings, roles, layout, table
        self.mismatches: list[_Mismatch] = []
        self._made = 0
        self._fixed = self._fixed_choices()

    def _fixed_choices(self) -> tuple[str, ...] | None:
        """The choices that all rows share, checked once; None where each row has its own."""
        choices = self.roles.choices
        if not isinstance(choices, tuple) or any(isinstance(part, Template) and part.columns for part in choices):
            return None
        texts = tuple(part.render({}) if isinstance(part, Template) else part for part in choices)
        return self._checked(self.roles.first_line, "choices", texts) or ()

    def convert(self, row: Row, fallback_id: str) -> Example | None:
        before = len(self.findings.problems) + len(self.mismatches)
        prompt = self._input(row)
        choices = self._row_choices(row)
        target = self._row_target(row, choices) if choices else None
        identifier = self._id(row)
        if len(self.findings.problems) + len(self.mismatches) > before or prompt is None:
            return None
        if choices is None or target is None:
            return None
        return Example(prompt, choices, None if target == UNKNOWN_TARGET else target, "", identifier or fallback_id)

    def _input(self, row: Row) -> str | None:
        template = self.roles.input
        assert template is not None
        column = _name(template)
        if template.is_column and column in row.fields and is_missing(row.fields[column]):
            self._missing_value(row, "input")
            return None
        prompt = self._text(row, template, "input")
        if prompt is None:
            return None
        if is_blank(prompt):
            why = ": nothing in it can be seen" if prompt.strip() else ""
            self.findings.add(row.line, column, f"the input is empty{why}", "Fill it, or remove the row")
        return prompt

    def _id(self, row: Row) -> str | None:
        template = self.roles.id
        if template is None or row.fields.get(template.columns[0]) in (None, ""):
            return None
        return self._text(row, template, "id")

    def _text(self, row: Row, template: Template, what: str) -> str | None:
        try:
            pieces = template.pieces(row.fields)
            return "".join(pieces) if self._has_room(row, template, what, sum(map(len, pieces))) else None
        except KeyError as error:
            self.findings.missing_in_row(row.line, str(error.args[0]), list(row.fields))
        except TypeError:
            kinds = ", ".join(f"{name!r} is {kind_of(row.fields[name])}" for name in template.columns)
            self.findings.add(row.line, _name(template), f"the {what} is not text: {kinds}", "Write it as text")
        return None

    def _has_room(self, row: Row, template: Template, what: str, length: int) -> bool:
        """Whether a text is put together: a small file and its spec may ask for more than there is memory."""
        if length > LONGEST_TEXT:
            message = f"the {what} has {length:,} characters; at most {LONGEST_TEXT:,} are read"
            cure = "Cut it: a model reads the first few thousand words"
            self.findings.add(row.line, _name(template), message, cure)
            return False
        before, self._made = self._made, self._made + (0 if template.is_column else length)
        if before <= FILE_LIMIT < self._made:
            message = f"the texts that the spec makes have more than {FILE_LIMIT:,} characters together up to here"
            self.findings.add(row.line, _name(template), message, "Take fewer rows, or shorter texts")
        return self._made <= FILE_LIMIT

    def _missing_value(self, row: Row, what: str) -> None:
        column = _name(getattr(self.roles, what))
        value = row.fields[column]
        written = "null or NaN" if not isinstance(value, str) else f"{shown(value)}, which stands for nothing"
        if isinstance(value, float) and not math.isnan(value):
            written = "infinity, or a number beyond 1e308"
        self.findings.add(row.line, column, f"the {what} is missing ({written})", "Fill it, or remove the row")

    # Choices.

    def _row_choices(self, row: Row) -> tuple[str, ...] | None:
        if self._fixed is not None:
            return self._fixed
        found, column = self._found_choices(row)
        return None if found is None else self._checked(row.line, column, found)

    def _found_choices(self, row: Row) -> tuple[tuple[str, ...] | None, str]:
        """The row's choices, not yet checked, and the field that they stand in."""
        if self.roles.choice_columns:
            columns = self.roles.choice_columns
            cells = [self._choice_cell(row, name) for name in columns]
            if None in cells:
                return None, ""
            while cells and not (cells[-1] or "").strip():
                cells.pop()
            return tuple(cell or "" for cell in cells), columns[0]
        choices = self.roles.choices
        if isinstance(choices, tuple):
            parts = [self._text(row, part, "choice") if isinstance(part, Template) else part for part in choices]
            return (None if None in parts else tuple(part for part in parts if part is not None)), "options"
        if choices is None:
            return None, ""
        return self._listed(row, choices.columns[0]), choices.columns[0]

    def _choice_cell(self, row: Row, column: str) -> str | None:
        """One numbered choice; "" where the row has none."""
        if row.fields.get(column) is None:
            return ""
        return self._text(row, Template.of_column(column), "choice")

    def _listed(self, row: Row, column: str) -> tuple[str, ...] | None:
        if column not in row.fields:
            self.findings.missing_in_row(row.line, column, list(row.fields))
            return None
        value = row.fields[column]
        if self.table:
            return self._cell_of_choices(row, column, value)
        if not isinstance(value, list):
            cure = 'Write ["a", "b", …]'
            if isinstance(value, dict) and isinstance(value.get("text"), list):
                cure += '; ARC and others write {"text": […], "label": ["A", …]}: `abmll tasks import` reads that'
            self.findings.add(row.line, column, f"the choices are {kind_of(value)}, not a list", cure)
            return None
        for position, choice in enumerate(value):
            if not isinstance(choice, str):
                message = f"choice {position} (counted from 0) is {kind_of(choice)}, not text"
                self.findings.add(row.line, column, message, "Put it in double quotes")
                return None
        return tuple(value)

    def _cell_of_choices(self, row: Row, column: str, cell: str) -> tuple[str, ...] | None:
        """The choices in one cell of a table: texts with | between, or a JSON list of texts."""
        text = cell.strip()
        if text[:1] == "[" and text[-1:] == "]" and "|" not in text:
            try:
                listed = parse_json(text)
            except Unreadable:
                listed = None
            if isinstance(listed, list) and all(isinstance(choice, str) for choice in listed):
                return tuple(listed)
            message = f"the choices {shown(text, 40)} look like a list of another program"
            self.findings.add(row.line, column, message, 'Write a|b|c in the cell, or a JSON list: ["a", "b", "c"]')
            return None
        return tuple(cell.split("|")) if text else ()

    def _checked(self, line: int, column: str, written: tuple[str, ...]) -> tuple[str, ...] | None:
        """The choices without outer spaces, as they stand in the prompt; None if they cannot be chosen from."""
        before = len(self.findings.problems)
        if len(written) < 2:
            message = f"the row has {len(written)} choice{'s' if len(written) != 1 else ''}, at least 2 are needed"
            self.findings.add(line, column, message, "Add the others, or remove the row")
        if len(written) > MOST_CHOICES:
            message = f"the row has {len(written):,} choices; at most {MOST_CHOICES:,} are scored"
            self.findings.add(line, column, message, "Give it fewer: the right one and the likeliest others")
            return None
        choices = tuple(choice.strip() for choice in written)
        for position, choice in enumerate(choices):
            if is_blank(choice):
                message = f"choice {position} (counted from 0) is empty"
                self.findings.add(line, column, message, "Fill it, or remove it and adjust the target")
            elif len(choice) > LONGEST_TEXT:
                message = f"choice {position} (counted from 0) has {len(choice):,} characters"
                self.findings.add(line, column, message, f"Cut it: at most {LONGEST_TEXT:,} are read")
        if len(set(choices)) < len(choices):
            counts = Counter(choice for choice in choices if not is_blank(choice))
            for choice in sorted(choice for choice, count in counts.items() if count > 1):
                spellings = {one for one in written if one.strip() == choice}
                how = " (but for spaces around it)" if len(spellings) > 1 else ""
                message = f"the choice {shown(choice)} stands there twice{how}"
                self.findings.add(line, column, message, "Make the choices differ")
        return choices if len(self.findings.problems) == before else None

    # Answers.

    def _row_target(self, row: Row, choices: tuple[str, ...]) -> int | None:
        has_target, has_label = self._has(row, self.roles.target), self._has(row, self.roles.label)
        by_index = self._index(row, len(choices)) if has_target else None
        by_text = self._label_index(row, choices) if has_label else None
        if by_index is not None and by_text is not None and by_index != by_text:
            message = f"the label says {shown(choices[by_text])}, but the target is {shown(choices[by_index])}"
            self.findings.add(row.line, _name(self.roles.label), message, "Correct one, or remove it")
        if not has_target and not has_label:
            if not self.layout.labelled:
                return UNKNOWN_TARGET
            name = _name(self.roles.target or self.roles.label)
            self.findings.missing_in_row(row.line, name, list(row.fields))
        return by_index if by_index is not None else by_text

    def _has(self, row: Row, column: Template | None) -> bool:
        """Whether the row says anything there; where labels may lack, an empty cell or null says nothing."""
        if column is None or column.columns[0] not in row.fields:
            return False
        value = row.fields[column.columns[0]]
        nothing = is_missing(value) or (isinstance(value, str) and is_blank(value))
        return self.layout.labelled or not nothing

    def _index(self, row: Row, num_choices: int) -> int | None:
        name = _name(self.roles.target)
        value = row.fields[name]
        if is_missing(value):
            self._missing_value(row, "target")
            return None
        # Benchmarks write numbers as text in JSON and Parquet too; a spec that names the column means them.
        textual = isinstance(value, str) and (self.table or self.layout.target is not None)
        if textual and re.fullmatch(r"\s*[+-]?[0-9]{1,20}\s*", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            written = f" ({shown(cell_text(value))})" if isinstance(value, (bool, float, str)) else ""
            cure = "Write the right choice's index as a whole number; or its text, in a field named 'label'"
            self.findings.add(row.line, name, f"the target is {kind_of(value)}{written}, not a whole number", cure)
            return None
        first = self.layout.first_index
        if not 0 <= value - first < num_choices:
            message = f"the target {shown(value, 20)} is out of range: {num_choices} choices are counted {first} … "
            message += str(first + num_choices - 1)
            cure = "Correct it" + ("" if first else "; if targets count from 1, set first_index = 1 in a TOML spec")
            self.findings.add(row.line, name, message, cure)
            return None
        return value - first

    def _label_index(self, row: Row, choices: tuple[str, ...]) -> int | None:
        name = _name(self.roles.label)
        value = row.fields[name]
        if is_missing(value):
            self._missing_value(row, "label")
            return None
        if isinstance(value, list):
            message = f"the label is a list of {len(value)}, and a row has one right choice"
            self.findings.add(row.line, name, message, "Give one label a row, or make one task a label (yes or no)")
            return None
        assert self.roles.label is not None
        raw = self._text(row, self.roles.label, "label")
        if raw is None:
            return None
        label = raw.strip()
        if is_blank(label):
            why = ": nothing in it can be seen" if label else ""
            self.findings.add(row.line, name, f"the label is empty{why}", "Fill it, or remove the row")
            return None
        if self.layout.labels:
            mapped = look_up(self.layout.labels, label)
            if mapped is None:
                message = f"the label {shown(label)} is not under labels in the spec"
                known = listing(self.layout.labels)
                self.findings.add(row.line, name, message, f"Add it there; known are: {known}")
                return None
            value = label = mapped.strip()
        index = match_label(value, label, choices)
        if index is None:
            self.mismatches.append(_Mismatch(row.line, value, label, choices))
        return index

    def tell_mismatches(self, num_rows: int) -> None:
        """Labels that are no choice of their row: one problem if all are letters or indices, else one a row."""
        missed = self.mismatches
        if not missed:
            return
        name = _name(self.roles.label)
        common = len(missed) > 2 and len(missed) > num_rows / 2
        letters = [one.label.strip("().").upper() for one in missed]
        if common and all(
            len(letter) == 1 and 0 <= ord(letter) - ord("A") < len(one.choices)
            for letter, one in zip(letters, missed, strict=True)
        ):
            message = (
                f"the answers of {len(missed)} rows are letters ({', '.join(sorted(set(letters))[:8])}), and none is "
                "among its choices"
            )
            cure = (
                'If A means the first choice, set format = "letters" in a TOML spec, or let `abmll tasks import` do it'
            )
            self.findings.add(missed[0].line, name, message, cure)
            return
        indices = [
            int(one.label) for one in missed if one.label.isascii() and one.label.isdigit() and len(one.label) < 9
        ]
        if common and len(indices) == len(missed):
            least = min(indices)
            fits = all(i - min(least, 1) < len(one.choices) for i, one in zip(indices, missed, strict=True))
            if fits:
                lines = listed_lines([one.line for one in missed])
                message = (
                    f"the answers of {len(missed)} rows are numbers, and none is among its choices (lines {lines}); "
                    "a label is a choice's text"
                )
                cure = f"If the number is its index, name the field 'target', or set target = \"{name}\" in a TOML spec"
                if least == 1 and any(i == len(one.choices) for i, one in zip(indices, missed, strict=True)):
                    cure += " with first_index = 1"
                self.findings.add(missed[0].line, name, message, cure)
                return
        for one in missed:
            near = self.findings.near(one.label, one.choices)
            cure = f"Did you mean {shown(near)}? " if near else ""
            if isinstance(one.value, int) and not isinstance(one.value, bool):
                cure = "A label is a choice's text; if the number is its index, name the field 'target'. "
            message = f"the label {shown(one.label)} is not among the choices"
            self.findings.add(one.line, name, message, f"{cure}The choices are: {listing(one.choices)}")


def _name(template: Template | None) -> str:
    return template.columns[0] if template is not None else ""
