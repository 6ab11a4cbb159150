"""The comparison's one table: quality, calibration, out-of-domain detection and cost of every method."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from abmll.core.files import write_whole
from abmll.evaluation.domains import SCORES, ood_intervals
from abmll.evaluation.levels import Levels
from abmll.evaluation.metrics import HEADLINE, METRICS
from abmll.evaluation.predictions import Cell, read_cells
from abmll.evaluation.queries import QUERIES, read_queries
from abmll.evaluation.ranking import Ranking
from abmll.evaluation.statistics import Interval
from abmll.evaluation.summary import Standing, Summary, summarise
from abmll.reports.costs import COLUMNS, Cost, cost_of, without_dashes
from abmll.reports.notation import mean_and_bounds, mean_and_half_width, number, p_value
from abmll.reports.per_task import RANKED, ranking
from abmll.reports.report import write_report
from abmll.reports.tables import aligned_rows, counts, markdown_rows
from abmll.reports.verdicts import legend_of_marks, levels_line, marked, nothing_beats_uniform

QUALITY = ("accuracy", "macro_f1", "nll", "ece", "adaptive_ece", "ece_per_example", "brier", "auroc")
TESTED = ("accuracy", "nll", "ece", "brier")


class ComparisonTable:
    """Everything that is said of a predictions file in which methods are compared. Deterministic."""

    def __init__(self, cells: Sequence[Cell], baseline: str | None = None) -> None:
        self.summary: Summary = summarise(cells, baseline, QUALITY)
        self.costs: dict[tuple[str, int], Cost] = {}
        self.aurocs = ood_intervals(cells)
        for standing in self.summary.standings:
            own = [c for c in cells if (c.method, c.support_size) == (standing.method, standing.support_size)]
            self.costs[standing.method, standing.support_size] = cost_of(own)
        self.rankings = {size: ranking(self.summary, size) for size in self.summary.support_sizes}

    def markdown(self, about: Sequence[str] = ()) -> str:
        """For a page of documentation: per support size quality, cost, differences and ranks.

        Args:
            about: paragraphs to stand before the first table, after what must be said first.
        """
        return self._text(markdown_rows, "### ", "**{}**", about)

    def text(self) -> str:
        """For a terminal."""
        return self._text(lambda rows: aligned_rows(rows, lambda text: text), "", "{} *")

    def _text(self, table: Callable[[list[list[str]]], str], heading: str, best: str, about: Sequence[str] = ()) -> str:
        first = [*nothing_beats_uniform(self.summary), *about]
        blocks: list[str] = []
        for size in self.summary.support_sizes:
            scope = counts(self.summary, size) or "unequal sets of tasks and seeds"
            blocks += [f"{heading}{size} support examples, {scope}", table(self._quality(size, best))]
            blocks += [levels_line(self.summary, size)]
            blocks += [table(self._cost(size))]
            if len(differences := self._differences(size)) > 1:
                blocks += [f"Difference to {self.summary.baseline}, p-values Holm-corrected:", table(differences)]
            if found := self.rankings[size]:
                blocks += [ranking_text(found)]
        legend = (
            f"± half of the 95 % interval; {best.format('best')}: better than each other method, p ≤ 0.05 by "
            "Wilcoxon's signed-rank test over tasks, Holm-corrected."
        )
        marks = legend_of_marks(self.summary)
        return "\n\n".join([*first, *blocks, legend, *marks, *self.summary.notes]) + "\n"

    def _standings(self, size: int) -> list[Standing]:
        return [standing for standing in self.summary.standings if standing.support_size == size]

    def _quality(self, size: int, best: str) -> list[list[str]]:
        rows = [["Method", *(f"{METRICS[m].label} {METRICS[m].arrow}" for m in QUALITY)]]
        for standing in self._standings(size):
            texts = []
            for metric in QUALITY:
                text = mean_and_half_width(standing.estimates[metric])
                wins = self.summary.winners.get((size, metric)) == standing.method
                texts.append(best.format(text) if wins else text)
            rows.append([marked(standing), *texts])
        return rows

    def _cost(self, size: int) -> list[list[str]]:
        header = ["Method", *(f"{label} ↑" for label, _ in SCORES.values()), f"Rank ({METRICS[RANKED].label})"]
        rows = [[*header, *COLUMNS]]
        for standing in self._standings(size):
            key = standing.method, size
            aurocs = map(mean_and_half_width, self.aurocs[key].values())
            rows.append([standing.method, *aurocs, number(standing.ranks[RANKED], 2), *self.costs[key].texts])
        return without_dashes(rows)

    def _differences(self, size: int) -> list[list[str]]:
        rows = [["Method", *(f"{METRICS[m].label} {METRICS[m].arrow}" for m in TESTED)]]
        for standing in self._standings(size):
            if standing.differences:
                texts = []
                for metric in TESTED:
                    difference = standing.differences[metric]
                    p = p_value(difference.p_value)
                    texts.append(mean_and_bounds(difference.interval) + (f", {p}" if p else ""))
                rows.append([standing.method, *texts])
        return rows

    def record(self) -> dict[str, Any]:
        """Every number in full, for JSON: NaN is None."""
        rows = []
        for standing in self.summary.standings:
            key = standing.method, standing.support_size
            rows.append(
                {
                    "method": standing.method,
                    "support_size": standing.support_size,
                    "num_tasks": standing.num_tasks,
                    "num_seeds": standing.num_seeds,
                    **{name: _interval(value) for name, value in {**standing.estimates, **self.aurocs[key]}.items()},
                    "differences": {
                        name: {**_interval(d.interval), "p_value": _finite(d.p_value), "num_pairs": d.num_pairs}
                        for name, d in standing.differences.items()
                    },
                    "against_uniform": {
                        **_interval(standing.against_uniform.interval),
                        "p_value": _finite(standing.against_uniform.p_value),
                        "num_pairs": standing.against_uniform.num_pairs,
                        "beats": standing.beats_uniform,
                    },
                    "mean_ranks": {name: _finite(rank) for name, rank in standing.ranks.items()},
                    "cost": vars(self.costs[key]),
                }
            )
        rankings = {str(size): vars(found) if found else None for size, found in self.rankings.items()}
        levels = {
            str(size): {
                "mean": self.summary.mean_levels(size)._asdict(),
                "tasks": {task: found._asdict() for task in self.summary.tasks if (found := self._levels(size, task))},
            }
            for size in self.summary.support_sizes
        }
        return {
            "baseline": self.summary.baseline,
            "rows": rows,
            "levels": levels,
            "rankings": rankings,
            "notes": self.summary.notes,
        }

    def _levels(self, size: int, task: str) -> Levels | None:
        found = self.summary.mean_levels(size, task)
        return None if found.chance != found.chance else found


def ranking_text(found: Ranking) -> str:
    """The critical-difference diagram in words."""
    groups = "; ".join(", ".join(group) for group in found.groups) or "none: all differ"
    friedman = p_value(found.p_value)
    return (
        f"Mean ranks over {found.num_tasks} tasks (seeds averaged first) by {METRICS[RANKED].label}: Friedman "
        f"{friedman}, critical difference {found.critical_difference:.2f} (Nemenyi, 5 %). Not told apart: {groups}."
    )


def write_comparison(
    predictions: Path, out: Path, baseline: str, training_logs: Mapping[str, Path], run_info: Mapping[str, Any]
) -> tuple[str, Path, Path]:
    """Writes comparison.md, comparison.json and report.html into `out`; returns the table for a terminal, and the
    first and the last of the files.
    """
    cells = read_cells(predictions)
    table = ComparisonTable(cells, baseline)
    about = [f"Budget: {run_info['budget']}."] if "budget" in run_info else []
    written = write_whole(out / "comparison.md", table.markdown(about))
    write_whole(out / "comparison.json", json.dumps({**run_info, **table.record()}, indent=1) + "\n")
    report = write_report(
        cells,
        table.summary.only(HEADLINE),
        table.aurocs,
        out / "report.html",
        training_logs,
        run_info,
        read_queries(predictions.with_name(QUERIES)),
    )
    return table.text(), written, report


def _interval(interval: Interval) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in interval._asdict().items()}


def _finite(value: float) -> float | None:
    return None if value != value else float(value)
