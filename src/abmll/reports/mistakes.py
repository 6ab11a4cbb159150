"""The mistakes that a method was surest of, with their text, and which classes it takes for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from abmll.evaluation import calibration
from abmll.evaluation.predictions import Cell
from abmll.evaluation.queries import Queries, Query, find_query

MOST_OF_A_TASK = 2
"""How many examples of one task are shown."""
MOST_CLASSES = 8
"""Classes of the largest confusion matrix that is drawn."""


class Mistake(NamedTuple):
    """A wrong prediction: what was asked, answered and right, the probabilities of both, and in how many seeds."""

    task: str
    question: str
    text: str
    predicted: str
    confidence: float
    right: str
    probability: float
    wrong: int
    asked: int


def confident_mistakes(cells: Sequence[Cell], queries: Queries, count: int = 10) -> list[Mistake]:
    """The wrong predictions of greatest confidence, of every row its worst, at most `MOST_OF_A_TASK` of a task.

    Args:
        cells: Of one method at one support size.
        queries: The texts; rows without one are left out.
        count: How many at most.
    """
    asked: Counter[tuple[str, Query]] = Counter()
    worst: dict[tuple[str, Query], Mistake] = {}
    wrong: Counter[tuple[str, Query]] = Counter()
    for cell in cells:
        probs = _probs(cell)
        confidence, predicted = probs.max(1)
        for index, target in enumerate(cell.targets.tolist()):
            query = find_query(queries, cell, index)
            if query is None:
                continue
            key = cell.task, query
            asked[key] += 1
            answer = int(predicted[index])
            if answer == target or max(answer, target) >= len(query.choices):
                continue
            wrong[key] += 1
            found = Mistake(
                cell.task,
                query.question,
                query.text,
                query.choices[answer],
                float(confidence[index]),
                query.choices[target],
                float(probs[index, target]),
                0,
                0,
            )
            if key not in worst or found.confidence > worst[key].confidence:
                worst[key] = found
    ordered = sorted(worst.items(), key=lambda item: (-item[1].confidence, item[1].task, item[1].text))
    chosen: list[Mistake] = []
    of_task: Counter[str] = Counter()
    for key, mistake in ordered:
        if len(chosen) < count and of_task[mistake.task] < MOST_OF_A_TASK:
            of_task[mistake.task] += 1
            chosen.append(mistake._replace(wrong=wrong[key], asked=asked[key]))
    return chosen


def confusions(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """For the template: one matrix for each set of classes, rows the right class, columns the predicted one.

    Tasks that have the same classes are pooled, over seeds too. Rows with choices of their own have no classes.

    Args:
        cells: Of one method at one support size.
    """
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        choices = tuple(cell.extra.get("choices", ()))
        if 1 < len(choices) <= MOST_CLASSES:
            groups.setdefault(choices, []).append(cell)
    return [_confusion(choices, own) for choices, own in groups.items()]


def _confusion(choices: tuple[str, ...], cells: Sequence[Cell]) -> dict[str, Any]:
    counts = torch.zeros(len(choices), len(choices), dtype=torch.long)
    for cell in cells:
        for right, predicted in zip(cell.targets.tolist(), _probs(cell).argmax(1).tolist(), strict=True):
            counts[right, predicted] += 1
    rows = []
    for right, row in enumerate(counts.tolist()):
        total = sum(row)
        shares = [value / total if total else 0.0 for value in row]
        entries = [
            {
                "text": f"{share:.0%}" if total else "",
                "shade": f"{share:.2f}",
                "right": right == column,
                "title": f"{value} of {total} rows whose label is {choices[right]} were answered {choices[column]}",
            }
            for column, (value, share) in enumerate(zip(row, shares, strict=True))
        ]
        rows.append({"label": choices[right], "count": total, "entries": entries})
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    return {"choices": choices, "rows": rows, "tasks": tasks}


def _probs(cell: Cell) -> torch.Tensor:
    return calibration.mixture(cell.log_probs.double().log_softmax(-1)).exp()
