"""Super-NaturalInstructions: one JSON file a task, with Definition, Instances and a closed set of outputs.

The definition is the question. A task whose outputs are few and come again is a classification; one whose inputs list
lettered options is multiple choice; any other asks for free text and is refused.
Source: Wang et al. 2022 (Super-NaturalInstructions), the task files and `splits/` of its repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abmll.data.formats.format import CHOICES, INPUT, Format, Misshapen, Options, Reading, answered, reshape
from abmll.data.formats.json import read_document
from abmll.data.formats.listed import letter_index, listed_choices
from abmll.data.problems import Problem
from abmll.data.rows import Row

MAX_CLASSES = 26
ROWS_PER_CLASS = 4
"""Outputs are a closed set if there are at most as many as letters, each with four rows on average at least."""
SPLITS = ("splits/default/train_tasks.txt", "splits/default/test_tasks.txt")
"""The official lists, in the folder above that of the task files; one task name a line."""


def _fits_document(document: Any) -> bool:
    return isinstance(document, Mapping) and "Definition" in document and isinstance(document.get("Instances"), list)


def official_split(folder: Path) -> tuple[list[str], list[str]] | None:
    """The names of the official training and test tasks, if `folder` (of task files) lies in such a repository."""
    for root in (folder, folder.parent):
        files = [root / name for name in SPLITS]
        if all(file.is_file() for file in files):
            train, test = (file.read_text(encoding="utf-8").split() for file in files)
            return train, test
    return None


def _read(path: Path, options: Options) -> Reading:
    document, problems = read_document(path)
    if problems and document is None:
        return Reading([], problems)
    if not _fits_document(document):
        cure = "Give a task file of Super-NaturalInstructions, e.g. tasks/task1344_glue_entailment_classification.json"
        return Reading([], [Problem(path.name, 0, "", "the file has no Definition and Instances", cure)])
    definition = document["Definition"]
    if isinstance(definition, list):
        definition = "\n".join(map(str, definition))
    rows = [
        Row(number, dict(instance))
        for number, instance in enumerate(document["Instances"], 1)
        if isinstance(instance, Mapping)
    ]
    outputs = [_output(row.fields) for row in rows]
    known = {output for output in outputs if output}
    closed = 2 <= len(known) <= MAX_CLASSES and len(known) * ROWS_PER_CLASS <= len(rows)
    if not closed and not any(listed_choices(str(row.fields.get("input", "")))[1] for row in rows):
        message = f"the task asks for free text: {len(known)} different outputs in {len(rows)} rows"
        cure = "Leave it out: a task here chooses between answers"
        return Reading([], [*problems, Problem(path.name, 0, "output", message, cure)])
    reading = Reading(rows, problems, question=str(definition).strip())
    return reshape(path, reading, lambda fields: _shape(fields, closed, options))


def _output(fields: Mapping[str, Any]) -> str | None:
    """The first of the accepted outputs."""
    output = fields.get("output")
    if isinstance(output, list):
        output = output[0] if output else None
    return output.strip() if isinstance(output, str) and output.strip() else None


def _shape(fields: Mapping[str, Any], closed: bool, options: Options) -> dict[str, Any]:
    text = fields.get("input")
    if not isinstance(text, str) or not text.strip():
        raise Misshapen("input", "the instance has no input", "Remove it", "warning")
    output = _output(fields)
    made: dict[str, Any] = {INPUT: text.strip()}
    if not closed:
        before, choices = listed_choices(text)
        if not choices:
            raise Misshapen("input", "it lists no options, as others of the task do", "Remove it", "warning")
        made = {INPUT: before, CHOICES: list(choices)}
        index = letter_index(output) if output else None
        if output and index is not None and output not in choices:
            if index >= len(choices):
                raise Misshapen("output", "its output is none of its options", "Remove it", "warning")
            output = choices[index]
        if output and output not in choices:
            raise Misshapen("output", "its output is none of its options", "Remove it", "warning")
    return made | answered(output, options, "output", "Add an output")


FORMAT = Format("a task file of Super-NaturalInstructions (Definition, Instances)", _read, None, _fits_document)
