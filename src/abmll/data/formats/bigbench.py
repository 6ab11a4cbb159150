"""BIG-bench's JSON tasks: examples with `target_scores`, one score a choice; the highest is the right one.

Source: Srivastava et al. 2022 (BIG-bench), its task.json files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abmll.data.formats.format import CHOICES, INPUT, LABEL, Format, Misshapen, Options, Reading, reshape
from abmll.data.formats.json import read_document, records
from abmll.data.problems import Problem


def _examples(document: Any) -> list[Any] | None:
    examples = document.get("examples") if isinstance(document, Mapping) else None
    return examples if isinstance(examples, list) else None


def _fits_document(document: Any) -> bool:
    examples = _examples(document)
    return (
        examples is not None
        and len(examples) > 0
        and all(isinstance(row, Mapping) and "target_scores" in row for row in examples[:20])
    )


def _read(path: Path, options: Options) -> Reading:
    document, problems = read_document(path)
    if problems and document is None:
        return Reading([], problems)
    examples = _examples(document)
    if examples is None or not any(isinstance(row, Mapping) and "target_scores" in row for row in examples):
        message = "the file has no examples with target_scores"
        cure = "Give a task.json of BIG-bench that scores choices; tasks that generate text have none"
        return Reading([], [Problem(path.name, 0, "examples", message, cure)])
    rows, found = records(path.name, examples)
    question = next((document[key] for key in ("task_prefix", "description") if isinstance(document.get(key), str)), "")
    return reshape(path, Reading(rows, [*problems, *found], question=question.strip()), _shape)


def _shape(fields: Mapping[str, Any]) -> dict[str, Any]:
    scores = fields.get("target_scores")
    if (
        not isinstance(scores, Mapping)
        or len(scores) < 2
        or not all(isinstance(s, (int, float)) for s in scores.values())
    ):
        raise Misshapen("target_scores", "it does not score two choices", "Remove it", "warning")
    best = max(scores.values())
    right = [choice for choice, score in scores.items() if score == best]
    if len(right) > 1:
        raise Misshapen("target_scores", "several of its choices score highest", "Remove it", "warning")
    text = fields.get("input")
    if not isinstance(text, str):
        raise Misshapen("input", "the example has no input", "Remove it")
    return {INPUT: text, CHOICES: [str(choice) for choice in scores], LABEL: str(right[0])}


FORMAT = Format("a task.json of BIG-bench (examples with target_scores)", _read, None, _fits_document)
