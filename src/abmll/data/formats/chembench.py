"""ChemBench's questions, as its hub serves them: BIG-bench's examples, one question a row, its scores written as JSON.

A row has `examples`, a list of one {"input", "target_scores"}, and `metrics`. Questions that ask for a number or have
several right choices are left out, and told.

Source: Mirza et al. 2025, arXiv 2404.01475 (jablonkagroup/ChemBench).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abmll.core.documents import parse_json
from abmll.core.errors import Unreadable
from abmll.data.formats.container import read_container
from abmll.data.formats.format import CHOICES, INPUT, LABEL, Format, Misshapen, Options, Reading, reshape

CURE = 'ChemBench\'s rows are {"examples": [{"input": …, "target_scores": …}], "metrics": […], …}'


def _fits(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows) and all(_example(row) is not None and isinstance(row.get("metrics"), list) for row in rows)


def _example(fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    examples = fields.get("examples")
    one = examples[0] if isinstance(examples, list) and len(examples) == 1 else None
    return one if isinstance(one, Mapping) and "input" in one else None


def _read(path: Path, options: Options) -> Reading:
    return reshape(path, read_container(path, options), _shape)


def _shape(fields: Mapping[str, Any]) -> dict[str, Any]:
    example = _example(fields)
    if example is None or not isinstance(example["input"], str):
        raise Misshapen("examples", "the row is not one question", CURE)
    scores: Any = example.get("target_scores")
    if isinstance(scores, str):
        try:
            scores = parse_json(scores)
        except Unreadable:
            raise Misshapen("examples", "its target_scores are no JSON", CURE) from None
    if not scores:
        raise Misshapen("examples", "it asks for a number or a text, and has no choices", "Remove it", "warning")
    if not isinstance(scores, Mapping) or not all(isinstance(score, (int, float)) for score in scores.values()):
        raise Misshapen("examples", "its target_scores are not one number a choice", CURE)
    right = [choice for choice, score in scores.items() if score == 1]
    if len(right) != 1 or len(scores) < 2:
        raise Misshapen("examples", "not just one of its choices is right", "Remove it", "warning")
    return {INPUT: example["input"].strip(), CHOICES: [str(choice) for choice in scores], LABEL: str(right[0])}


FORMAT = Format("ChemBench's questions: one scored example a row", _read, _fits)
