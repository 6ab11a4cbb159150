"""Label Studio's JSON export: one task an item, its data, and the annotators' choices.

Of several annotators the majority decides; without one the item is left out. Items that hold several questions need
the one named: `label = "NAME"` in a spec takes the choices of that control tag. (JSON-MIN, CSV and TSV exports are
ordinary tables.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abmll.data.formats.container import read_container
from abmll.data.formats.format import INPUT, Format, Misshapen, Options, Reading, answered, most_named, reshape

USUAL = ("text", "input", "question", "content", "body", "message", "review")
CURE = "Annotate it, or leave it out"


def _fits(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows) and all(
        isinstance(row.get("data"), Mapping) and isinstance(row.get("annotations", row.get("completions")), list)
        for row in rows
    )


def _read(path: Path, options: Options) -> Reading:
    return reshape(path, read_container(path, options), lambda fields: _shape(fields, options))


def _shape(fields: Mapping[str, Any], options: Options) -> dict[str, Any]:
    data = fields.get("data")
    if not isinstance(data, Mapping):
        raise Misshapen("data", "the item has no data", "Export the project as JSON")
    texts = {str(name): value for name, value in data.items() if isinstance(value, str)}
    named = next((name for name in USUAL if name in texts), next(iter(texts), None))
    if named is None:
        raise Misshapen("data", "the item's data hold no text", "Only text can be read here")
    made: dict[str, Any] = dict(texts) | {INPUT: texts[named], "id": str(fields.get("id", ""))}
    if not made["id"]:
        del made["id"]
    answers = _answers(fields.get("annotations", fields.get("completions")))
    labels = {name: most_named(given) for name, given in answers.items()}
    made |= {name: label for name, label in labels.items() if label is not None and name not in texts}
    if len(labels) > 1:
        return made  # which question is meant is the spec's to say
    return made | answered(next(iter(labels.values()), None), options, "annotations", CURE)


def _answers(annotations: Any) -> dict[str, list[str]]:
    """What each control tag was answered with, one entry an annotator who gave one choice."""
    found: dict[str, list[str]] = {}
    for annotation in annotations if isinstance(annotations, list) else []:
        if not isinstance(annotation, Mapping) or annotation.get("was_cancelled"):
            continue
        for region in annotation.get("result") or []:
            value = region.get("value") if isinstance(region, Mapping) else None
            choices = value.get("choices") if isinstance(value, Mapping) else None
            if isinstance(choices, list) and len(choices) == 1:
                found.setdefault(str(region.get("from_name", "label")), []).append(str(choices[0]))
    return found


FORMAT = Format("Label Studio's JSON export (data and annotations)", _read, _fits)
