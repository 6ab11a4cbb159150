"""Results task by task: tables with tasks as rows, grouped by family, shaded from worst to best."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from abmll.evaluation.metrics import METRICS
from abmll.evaluation.predictions import Cell
from abmll.evaluation.ranking import Ranking, rank_methods, shared_task_means
from abmll.evaluation.statistics import seed_means
from abmll.evaluation.summary import Summary
from abmll.reports.notation import number

SHOWN = ("accuracy", "nll")
"""The metrics that are shown task by task."""
LEVELS = {"accuracy": {"chance": "chance", "commonest label": "majority"}, "nll": {"uniform": "uniform_nll"}}
"""Metric -> what stands beside the methods there: its label and the field of `Levels`."""
RANKED = "nll"
"""The metric of the mean rank over tasks and of the critical difference."""


def task_tables(cells: Sequence[Cell], summary: Summary, size: int, held_out: Collection[str]) -> dict[str, Any]:
    """For the template: methods, groups of tasks (families in `held_out` first), and one table of means a metric."""
    family = {c.task: c.family for c in cells if c.support_size == size}
    tasks = sorted(family, key=lambda task: (family[task] not in held_out, family[task], task))
    methods = [standing.method for standing in summary.standings if standing.support_size == size]
    groups = [
        {
            "family": name,
            "held_out": name in held_out,
            "tasks": [(i, task) for i, task in enumerate(tasks) if family[task] == name],
        }
        for name in dict.fromkeys(family[task] for task in tasks)
    ]
    levels = {
        metric: {label: field for label, field in LEVELS[metric].items() if label not in methods} for metric in SHOWN
    }
    tables = [
        {
            "metric": METRICS[metric],
            "rows": _shaded(task_means(summary, metric, size, tasks, methods), METRICS[metric].better == "higher"),
            "levels": list(levels[metric]),
            "level_rows": [
                [number(getattr(summary.mean_levels(size, task), field), 2) for field in levels[metric].values()]
                for task in tasks
            ],
        }
        for metric in SHOWN
    ]
    return {"size": size, "methods": methods, "groups": groups, "tables": tables}


def task_means(summary: Summary, metric: str, size: int, tasks: Sequence[str], methods: Sequence[str]) -> np.ndarray:
    """Means over seeds (tasks, methods); NaN where a method has no cell of the task."""
    places = [summary.tasks.index(task) for task in tasks]
    values = summary.values(metric, size, methods)[:, places]
    return seed_means(values).T


def ranking(summary: Summary, size: int, metric: str = RANKED) -> Ranking | None:
    """The ranking of the methods of one support size; its mean ranks are those of the summary."""
    methods = [standing.method for standing in summary.standings if standing.support_size == size]
    shared = shared_task_means(summary.values(metric, size, methods))
    return rank_methods(methods, shared, METRICS[metric].better == "higher")


def _shaded(means: np.ndarray, higher_is_better: bool) -> list[list[dict[str, Any]]]:
    """Per task and method: the text, the shade in [0, 1] (1 is the table's best), whether it is the best of its row."""
    goodness = means if higher_is_better else -means
    low, high = np.nanmin(goodness), np.nanmax(goodness)
    shades = np.nan_to_num((goodness - low) / (high - low)) if high > low else np.zeros_like(means)
    rows = []
    for values, row_shades, top in zip(means, shades, np.nanargmax(goodness, axis=1), strict=True):
        texts = [number(value, 2) for value in values]
        rows.append(
            [
                {"text": text, "shade": f"{shade:.2f}", "best": text == texts[top], "title": number(value, 4)}
                for text, shade, value in zip(texts, row_shades, values, strict=True)
            ]
        )
    return rows
