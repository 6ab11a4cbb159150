"""One task out of rows that a format has shaped, from however many files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from abmll.core.example import Example
from abmll.data.formats.format import CHOICES, INPUT, LABEL
from abmll.data.overlap import normalised
from abmll.data.task import Task

MAX_CLASSES = 64
ROWS_PER_CLASS = 4
"""Outputs are a closed set if there are at most so many, each with so many rows on average at least."""


class Rows(NamedTuple):
    """What a task is made of: rows as a format shapes them, to be evaluated on and to adapt on.

    Attributes:
        source: for messages.
        words: all labels, where they are known; otherwise those of the rows.
        family: of the task.
    """

    evaluated: Sequence[Mapping[str, Any]]
    support: Sequence[Mapping[str, Any]]
    source: str
    words: tuple[str, ...] = ()
    family: str = ""


def task_of(name: str, found: Rows) -> Task | None:
    """One task from all its rows, repeated ones once; None where its answers are free text.

    Its choices are those that each input lists, or else all its labels if these are few and come again.
    """
    every = [*found.evaluated, *found.support]
    listed = all(CHOICES in fields for fields in every)
    classes = list(found.words) or sorted({str(fields[LABEL]).strip() for fields in every} - {""})
    distinct = len({normalised(fields[INPUT]) for fields in every})  # the draws of several seeds overlap
    closed = bool(found.words) or (2 <= len(classes) <= MAX_CLASSES and len(classes) * ROWS_PER_CLASS <= distinct)
    if not listed and not closed:
        return None
    shared = None if listed else classes
    rows, pool = ([_example(fields, shared) for fields in group] for group in (found.evaluated, found.support))
    kept = _once([row for row in rows if row is not None])
    tested = {normalised(row.prompt) for row in kept}
    apart = [row for row in _once([row for row in pool if row is not None]) if normalised(row.prompt) not in tested]
    evaluated = tuple(row._replace(id=f"{name}:{number}") for number, row in enumerate(kept))
    support = tuple(row._replace(id=f"{name}:support:{number}") for number, row in enumerate(apart))
    return Task(name, evaluated, "", found.family, found.source, support) if kept else None


def _example(fields: Mapping[str, Any], classes: Sequence[str] | None) -> Example | None:
    """classes: of all rows; None where each row lists its choices."""
    choices = tuple(fields[CHOICES] if classes is None else classes)
    label = str(fields[LABEL]).strip()
    # What looks like choices in some rows of a classification task belongs to their texts.
    prompt = fields[INPUT] if classes is None or CHOICES not in fields else fields["input"]
    fine = label in choices and len(set(choices)) == len(choices) and all(choices) and prompt.strip()
    return Example(prompt, choices, choices.index(label)) if fine else None


def _once(rows: Sequence[Example]) -> list[Example]:
    kept: dict[tuple[str, tuple[str, ...]], Example] = {}
    for row in rows:
        kept.setdefault((normalised(row.prompt), row.choices), row)
    return list(kept.values())
