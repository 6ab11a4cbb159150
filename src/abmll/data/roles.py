"""Which column of a file is the input, which the choices, which the answer: found once, for all of its rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from abmll.core.errors import shown
from abmll.data.columns import (
    CHOICES_NAMES,
    ID_NAMES,
    INPUT_NAMES,
    LABEL_NAMES,
    OTHER_INPUTS,
    OTHER_LABELS,
    TARGET_NAMES,
    containing,
    named,
    plain,
)
from abmll.data.findings import Findings, listing
from abmll.data.labels import (
    PERHAPS_MISSING,
    counted,
    difference,
    distinct_spelling,
    is_blank,
    is_listed,
    is_missing,
    is_number,
    loose_key,
    near_equal,
    several_in_one,
    spelling_key,
)
from abmll.data.layout import Layout
from abmll.data.row import Row
from abmll.data.template import Template, cell_text

MOST_CHOICES = 1000
"""Choices of the largest row: each is scored in every pass."""
_NUMBERED = re.compile(r"(?:choice|option)[\s_-]?(\d{1,6})")


class Roles:
    """The columns of a file. What is not found is among the findings.

    input, id, target, label: templates over columns; None if there is none.
    choices: the column of choices, or the choices themselves (texts or templates); None for numbered columns.
    choice_columns: these, in the order of their numbers.
    """

    def __init__(self, findings: Findings, rows: Sequence[Row], layout: Layout, table: bool, whole: bool) -> None:
        self.findings, self.layout, self.table, self.whole = findings, layout, table, whole
        self.first_line = rows[0].line if rows else 0
        self.known = list(dict.fromkeys(name for row in rows for name in row.fields))
        self._num_rows = len(rows)
        self._taken: set[str] = set()
        self.choice_columns = self._numbered()
        self.id = self._find("id", layout.id, ID_NAMES, needed=layout.id is not None)
        self.input = self._find("input", layout.input, INPUT_NAMES, OTHER_INPUTS)
        self.target = None if layout.label else self._find("target", layout.target, TARGET_NAMES, needed=False)
        has_target = self.target is not None
        self.label = (
            None
            if layout.target
            else self._find("label", layout.label, LABEL_NAMES, () if has_target else OTHER_LABELS, needed=False)
        )
        if self.target is not None and self.label is None and layout.target is None and not self._has_choices():
            # Without choices to count, what stands under "target" is the class itself.
            self.target, self.label = None, self.target
        if self.target is None and self.label is None and layout.labelled and not findings.errors:
            self._missing("target", TARGET_NAMES + LABEL_NAMES)
        if findings.errors and table and layout.input is None and layout.label is None:
            self._headless(rows)
        self.choices = self._find_choices(rows)

    def _has_choices(self) -> bool:
        return self.layout.choices is not None or bool(self.choice_columns) or bool(named(self.known, CHOICES_NAMES))

    def _numbered(self) -> list[str]:
        if self.layout.choices is not None or named(self.known, CHOICES_NAMES):
            return []
        found = [(int(mark[1]), name) for name in self.known if (mark := _NUMBERED.fullmatch(plain(name)))]
        return [name for _, name in sorted(found)]

    def _find(
        self, what: str, said: str | None, usual: Sequence[str], others: Sequence[str] = (), needed: bool = True
    ) -> Template | None:
        """others: names that are taken where no usual one is there, and only one of these."""
        if said is not None:
            template = Template(said)
            for column in template.columns:
                if column not in self.known:
                    self._missing(column, (column,), spec_key=what)
            return template
        present = named(self.known, usual)
        if len(present) > 1:
            message = f"both {shown(present[0])} and {shown(present[1])} could be the {what}"
            self._add(what, message, f"Rename one, or set {what} in a TOML spec")
        if present:
            self._taken.add(present[0])
            return Template.of_column(present[0])
        likely = named(self.known, others)
        if not likely and others:
            unlike = set(containing(self.known, OTHER_LABELS)) if usual == INPUT_NAMES else self._taken
            likely = [name for name in containing(self.known, (*usual, *others)) if name not in unlike]
        if len(likely) == 1:
            message = f"the column {shown(likely[0])} is taken as the {what}"
            self.findings.add(0, what, message, f'If it is not, set {what} = "…" in a TOML spec', "note")
            self._taken.add(likely[0])
            return Template.of_column(likely[0])
        if len(likely) > 1 and needed:
            both = "\\n".join(f"{{{name}}}" for name in likely[:2])
            message = f"no row has a field {' or '.join(map(repr, usual))}, but several that could be the {what}"
            cure = f'Say which in a TOML spec: {what} = "{likely[0]}", or both: {what} = "{both}". '
            self._add(what, message, f"{cure}The fields found are: {listing(self.known)}")
        elif needed:
            self._missing(what, usual)
        elif likely:
            message = f"both {shown(likely[0])} and {shown(likely[1])} could be the {what}"
            self._add(what, message, f"Rename one to {usual[0]!r}, or set {what} in a TOML spec")
        return None

    def _headless(self, rows: Sequence[Row]) -> None:
        """Says so where the first line, taken as the names of the columns, looks like a row itself."""
        for name in self.known:
            same = sum(row.fields.get(name, "").strip() == name for row in rows[:2000] if name in row.fields)
            if name and same and (same > 1 or len(rows) < 8):
                self.findings.problems.clear()
                names = ", ".join(
                    f'"{one}"' for one in ("text", "label", *map("column{}".format, range(3, 99)))[: len(self.known)]
                )
                message = (
                    f"the first line seems to be a row, not the names of the columns: its {shown(name, 40)} stands in "
                    f"{same} other row{'s' if same > 1 else ''} too"
                )
                cure = f"Put a line with the names before it (text,label), or write columns = [{names}] in a TOML spec"
                self.findings.add(1, "", message, cure)
                return

    # Choices.

    def _find_choices(self, rows: Sequence[Row]) -> Template | tuple[Template | str, ...] | None:
        said = self.layout.choices
        if isinstance(said, str):
            return self._find("choices", said, ())
        if said is not None:
            templates = tuple(Template(text, bare_is_column=False) for text in said)
            for column in dict.fromkeys(column for template in templates for column in template.columns):
                if column not in self.known:
                    self._missing(column, (column,), spec_key="choices")
            return templates
        if named(self.known, CHOICES_NAMES):
            return self._find("options", None, CHOICES_NAMES)
        return None if self.choice_columns else self._labels_as_choices(rows)

    def _labels_as_choices(self, rows: Sequence[Row]) -> tuple[str, ...] | None:
        if self.layout.labels:
            return tuple(dict.fromkeys(self.layout.labels.values()))
        if self.layout.known_choices:
            return self.layout.known_choices
        if self.label is None:
            if not self.findings.errors:
                self._missing("options", CHOICES_NAMES)
            return None
        column = self.label.columns[0]
        counts: Counter[str] = Counter()
        spaced = 0
        for row in rows:
            value = row.fields.get(column)
            if isinstance(value, (str, bool, int, float)) and not is_missing(value) and not is_blank(cell_text(value)):
                counts[cell_text(value).strip()] += 1
                spaced += cell_text(value).strip() != cell_text(value)
        if not self.whole or self._lettered(column, counts):
            return None
        if not counts and not any(isinstance(row.fields.get(column), (list, dict)) for row in rows):
            self._add(column, "no row has a label", "Fill the column, or name the right one under label in a TOML spec")
            return None
        if not counts:
            message = "the labels are lists or objects, and a row has one right choice"
            self._add(column, message, "Give one label a row, or make one task a label (yes or no)")
            return None
        if not self._are_classes(column, counts):
            return None
        if spaced:
            message = f"the spaces around {spaced} label{'s' if spaced > 1 else ''} are left out"
            self.findings.add(0, column, message, "Nothing needs to be done", "note")
        numeric = all(map(is_number, counts))
        return tuple(sorted(counts, key=lambda text: (float(spelling_key(text)), text) if numeric else (0.0, text)))

    def _lettered(self, column: str, counts: Counter[str]) -> bool:
        """Says so where the labels are letters of columns A, B, C, …, which then hold the choices."""
        letters = {label.strip("(). ").upper() for label in counts}
        columns = [name for name in self.known if len(name.strip()) == 1 and name.strip().upper() in letters]
        if len(columns) < 2 or len(columns) < len(letters):
            return False
        message = f"the labels are the letters of the columns {listing(columns)}, which seem to hold the choices"
        cure = 'Set format = "letters" in a TOML spec; `abmll tasks import` writes it'
        self._add("label", message, cure)
        return True

    def _are_classes(self, column: str, counts: Counter[str]) -> bool:
        """Whether the labels are a set of classes; and what is odd about them."""
        total, distinct = sum(counts.values()), sorted(counts)
        numbers = all(map(is_number, distinct))
        if len(distinct) == 1:
            some = "" if total == self._num_rows else " with a label"
            rows = f"all {total} rows{some} have" if total > 1 else f"the one row{some} has"
            message = f"{rows} one class only, {shown(distinct[0])}"
            self.findings.add(0, column, message, "Add rows of the other classes, or list all choices")
            return False
        if total > 8 and len(distinct) > total / 2:
            message = f"{total} rows have {len(distinct)} different labels, and no field 'options'"
            cure = "Give every row its choices in a field 'options'"
            if numbers:
                cure = "They look like measurements: put them into classes (low, high); a number cannot be estimated"
            self._add("label", message, cure)
            return False
        if len(distinct) > MOST_CHOICES:
            message = f"the labels are {len(distinct):,} classes; at most {MOST_CHOICES:,} are scored"
            self._add("label", message, "Join rare classes, or give every row a few choices in a field 'options'")
            return False
        if distinct and numbers:
            self._bare_numbers(column, counts)
        self._spellings(column, counts)
        return True

    def _bare_numbers(self, column: str, counts: Counter[str]) -> None:
        keys = sorted(counts, key=lambda text: (float(spelling_key(text)), text))
        message = f"the choices, taken from the labels, are bare numbers ({listing(keys).replace(chr(39), '')})"
        pairs = ", ".join(f'{key if key.isdigit() else shown(key)} = "…"' for key in keys[:6])
        texts = named(self.known, ("label_text", "label_name", "class_name", "labels_text", "category_name"))
        say = f'set label = "{texts[0]}" in a TOML spec, or map' if texts else "Map"
        cure = f"{say} them to words under labels in a TOML spec: the model reads the words; labels = {{{pairs}}}"
        self._add("label", message, cure[:1].upper() + cure[1:], "warning")

    def _spellings(self, column: str, counts: Counter[str]) -> None:
        total = sum(counts.values())
        groups = near_equal(counts, loose_key)
        if groups:
            told = "; ".join(
                " and ".join(f"{distinct_spelling(label)} ({counts[label]})" for label in group)
                + f" ({difference(group[0], group[1])})"
                for group in groups[:8]
            )
            more = f"; … ({len(groups)} groups)" if len(groups) > 8 else ""
            pairs = ", ".join(
                f"{distinct_spelling(other)} = {distinct_spelling(group[0])}"
                for group in groups[:3]
                for other in group[1:]
            )
            message = f"labels that differ only in how they are written count as different classes: {told}{more}"
            cure = f"Spell them alike in the file, or map all labels under labels in a TOML spec, among them {pairs}"
            self._add(column, message, cure, "warning")
        rare = {label: count for label, count in counts.items() if label.casefold() in PERHAPS_MISSING}
        if rare and sum(rare.values()) <= max(1, total / 20):
            message = f"labels that may stand for a missing one count as classes: {counted(Counter(rare))}"
            self._add(column, message, "Remove those rows if nobody labelled them", "warning")
        listed_ones = [label for label in counts if is_listed(label)]
        if listed_ones:
            message = f"labels are lists of another program: {counted(Counter({x: counts[x] for x in listed_ones}), 5)}"
            cure = "Write the label alone: the model reads what stands there, brackets and quotes too"
            self._add(column, message, cure, "warning")
        mark = several_in_one(counts)
        if mark:
            joined = Counter({label: count for label, count in counts.items() if mark in label})
            message = f"labels that name several others count as classes of their own: {counted(joined, 5)}"
            cure = "Give each row one label, or make one task a label (yes or no): a row has one right choice"
            self._add(column, message, cure, "warning")

    def _missing(self, what: str, names: Sequence[str], spec_key: str = "") -> None:
        self.findings.missing(self.first_line, what, names, self.known, spec_key)

    def _add(self, field: str, message: str, cure: str, severity: Any = "error") -> None:
        self.findings.add(self.first_line, field, message, cure, severity)
