"""BIG-Bench Hard's JSON files: {"examples": [{"input", "target"}]}, options listed in the input.

Options are "(A) …" lines with a letter as the target, or "- …" lines; where an input lists none, the targets of all
rows are the classes (True and False, valid and invalid).
Source: Suzgun et al. 2022 (BIG-Bench Hard), its bbh/*.json files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abmll.data.formats.format import CHOICES, INPUT, LABEL, Format, Options, Reading, answered, reshape, text_of
from abmll.data.formats.json import read_document, records
from abmll.data.formats.listed import dashed_choices, letter_index, listed_choices
from abmll.data.problems import Problem

CURE = 'BIG-Bench Hard\'s files are {"examples": [{"input": …, "target": …}]}'


def _fits_document(document: Any) -> bool:
    examples = document.get("examples") if isinstance(document, Mapping) else None
    return (
        isinstance(examples, list)
        and bool(examples)
        and all(
            isinstance(row, Mapping) and isinstance(row.get("input"), str) and isinstance(row.get("target"), str)
            for row in examples[:20]
        )
    )


def _read(path: Path, options: Options) -> Reading:
    document, problems = read_document(path)
    if problems and document is None:
        return Reading([], problems)
    if not isinstance(document, Mapping) or not isinstance(document.get("examples"), list):
        return Reading([], [Problem(path.name, 0, "examples", "the file has no list of examples", CURE)])
    rows, found = records(path.name, document["examples"])
    return reshape(path, Reading(rows, [*problems, *found]), lambda fields: _shape(fields, options))


def _shape(fields: Mapping[str, Any], options: Options) -> dict[str, Any]:
    text = text_of(fields, "input", CURE)
    target = text_of(fields, "target", CURE).strip() if "target" in fields else None
    before, choices = listed_choices(text)
    if not choices:
        before, choices = dashed_choices(text)
    if not choices:
        return {INPUT: text.strip()} | answered(target, options, "target", CURE)
    made: dict[str, Any] = {INPUT: before, CHOICES: list(choices)}
    if target is None:
        return made | answered(None, options, "target", CURE)
    index = letter_index(target)
    if index is not None and target not in choices and index < len(choices):
        target = choices[index]
    return made | {LABEL: target}


FORMAT = Format("a file of BIG-Bench Hard (examples with input and target)", _read, None, _fits_document)
