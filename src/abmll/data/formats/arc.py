"""Choices with labels of their own and an answer key, as ARC, CommonsenseQA, OpenBookQA and QASC have them.

`choices` is {"text": […], "label": ["A", …]}, or a list of {"text", "label"}; `answerKey` names one label. The
question is a text, or {"stem", "choices"} as in ARC's own files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from abmll.data.formats.container import read_container
from abmll.data.formats.format import CHOICES, INPUT, LABEL, Format, Misshapen, Options, Reading, answered, reshape

CURE = 'ARC\'s rows are {"question": …, "choices": {"text": […], "label": […]}, "answerKey": …}'


def _fits(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows) and all(_parts(row) is not None and "answerKey" in row for row in rows)


def _parts(fields: Mapping[str, Any]) -> tuple[str, list[str], list[str]] | None:
    """Question, texts and labels of the choices; None if the row has another form."""
    question: Any = fields.get("question", fields.get("question_stem"))
    choices: Any = fields.get("choices")
    if isinstance(question, Mapping):
        question, choices = question.get("stem"), question.get("choices")
    if isinstance(choices, list) and all(isinstance(choice, Mapping) for choice in choices):
        choices = {key: [choice.get(key) for choice in choices] for key in ("text", "label")}
    if not isinstance(question, str) or not isinstance(choices, Mapping):
        return None
    texts, labels = choices.get("text"), choices.get("label")
    if not _texts(texts) or not _texts(labels) or len(texts) != len(labels):
        return None
    return question, texts, labels


def _texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _read(path: Path, options: Options) -> Reading:
    return reshape(path, read_container(path, options), lambda fields: _shape(fields, options))


def _shape(fields: Mapping[str, Any], options: Options) -> dict[str, Any]:
    parts = _parts(fields)
    if parts is None:
        raise Misshapen("choices", "the row has no question with labelled choices", CURE)
    question, texts, labels = parts
    made = {INPUT: question, CHOICES: list(texts)}
    key = fields.get("answerKey")
    if key in (None, ""):
        return made | answered(
            None, options, "answerKey", "Hubs hide the answers of some test sets; take another split"
        )
    if str(key) not in labels:
        raise Misshapen("answerKey", f"the key {key!r} is none of the labels {', '.join(map(repr, labels))}", CURE)
    return made | {LABEL: texts[labels.index(str(key))]}


FORMAT = Format("labelled choices and an answer key: ARC, CommonsenseQA, OpenBookQA, QASC", _read, _fits)
