"""Argilla's exports: records with fields and responses (2.x), the same flattened by to_datasets, and 1.x's annotations.

Of several annotators the majority decides; records without a response are left out. Suggestions are a model's and are
never taken for answers. Where records hold several questions, `label = "NAME"` in a spec chooses one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abmll.data.formats.container import read_container
from abmll.data.formats.format import INPUT, Format, Misshapen, Options, Reading, answered, most_named, reshape

USUAL = ("text", "input", "question", "prompt", "instruction", "content")
RESPONSES = ".responses"
CURE = "Annotate it, or leave it out"


def _fits(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows) and all(
        (isinstance(row.get("fields"), Mapping) and "responses" in row)
        or any(name.endswith(RESPONSES) for name in row)
        or ("annotation" in row and ("inputs" in row or "text" in row) and ("prediction" in row or "status" in row))
        for row in rows
    )


def _read(path: Path, options: Options) -> Reading:
    return reshape(path, read_container(path, options), lambda fields: _shape(fields, options))


def _shape(fields: Mapping[str, Any], options: Options) -> dict[str, Any]:
    texts, answers = _parts(fields)
    named = next((name for name in USUAL if name in texts), next(iter(texts), None))
    if named is None:
        raise Misshapen("fields", "the record has no field of text", "Only text can be read here")
    made: dict[str, Any] = dict(texts) | {INPUT: texts[named]}
    labels = {name: most_named(given) for name, given in answers.items()}
    made |= {name: label for name, label in labels.items() if label is not None and name not in texts}
    if len(labels) > 1:
        return made  # which question is meant is the spec's to say
    return made | answered(next(iter(labels.values()), None), options, "responses", CURE)


def _parts(fields: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """A record's texts by field, and its answers by question."""
    if isinstance(fields.get("fields"), Mapping):
        texts = fields["fields"]
        responses = fields.get("responses")
        if isinstance(responses, list):  # Feedback records of 1.x: [{"values": {question: {"value"}}}]
            answers: dict[str, list[str]] = {}
            for response in responses:
                for name, given in (response.get("values") or {}).items() if isinstance(response, Mapping) else ():
                    answers.setdefault(name, []).extend(_values([given]))
        else:
            answers = {name: _values(given) for name, given in (responses or {}).items()}
    elif any(name.endswith(RESPONSES) for name in fields):
        texts = {name: value for name, value in fields.items() if "." not in name and name not in ("id", "status")}
        answers = {
            name.removesuffix(RESPONSES): _values(value) for name, value in fields.items() if name.endswith(RESPONSES)
        }
    else:
        inputs = fields.get("inputs")
        texts = inputs if isinstance(inputs, Mapping) else {"text": fields.get("text", inputs)}
        answers = {"annotation": _values(fields.get("annotation"))}
    return {name: text for name, text in texts.items() if isinstance(text, str)}, answers


def _values(given: Any) -> list[str]:
    """The single answers in what one question was answered with, whichever way it is written."""
    found = []
    for item in given if isinstance(given, list) else [given]:
        value = item.get("value") if isinstance(item, Mapping) else item
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            found.append(str(value))
    return found


FORMAT = Format("Argilla's exported records (fields and responses, or annotation)", _read, _fits)
