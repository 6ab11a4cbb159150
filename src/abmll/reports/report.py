"""The HTML report: one self-contained file, made from predictions alone."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from abmll.core.errors import AbmllError
from abmll.core.files import write_whole
from abmll.core.nested import flat
from abmll.core.notices import tell
from abmll.evaluation import calibration, domains
from abmll.evaluation.metrics import METRICS
from abmll.evaluation.predictions import Cell, read_cells
from abmll.evaluation.queries import QUERIES, Queries, read_queries
from abmll.evaluation.statistics import Interval
from abmll.evaluation.summary import Summary, summarise
from abmll.reports import costs, figures, learning, per_task
from abmll.reports.mistakes import confident_mistakes, confusions
from abmll.reports.notation import amount, mean_and_bounds, mean_and_half_width, number, p_value
from abmll.reports.settings import settings
from abmll.reports.tables import counts
from abmll.reports.verdicts import legend_of_marks, levels_line, losses, marked, nothing_beats_uniform, wins

Aurocs = Mapping[tuple[str, int], Mapping[str, Interval]]
TEMPLATE = "report.html.jinja"
NO_LOGS: Mapping[str, Path] = {}
NO_INFO: Mapping[str, Any] = {}


def render_report(
    predictions: Path,
    out: Path,
    training_logs: Mapping[str, Path] = NO_LOGS,
    run_info: Mapping[str, Any] = NO_INFO,
    baseline: str | None = None,
    queries: Queries | None = None,
) -> Path:
    """Writes the report of a predictions file to `out` and returns it. Equal input gives equal bytes.

    Args:
        training_logs: run name -> training.jsonl; a name that begins with a method's ("abmll/0", "abmll seed 0") puts
            its curve into that method's panel.
        run_info: what was run (config, versions, seeds, commit): scalars, and mappings of them which fold. "title" is
            the page's title; "held_out_families" names families to mark, besides cells with extra["held_out_family"];
            "setting" and "options" are those of `config.about`.
        baseline: the method that differences are taken to; None: `baseline_of` the methods.
        queries: the texts of the query examples; None reads those that lie beside the predictions.

    The file is written whole or not at all; nothing in it is loaded from elsewhere.

    A damaged training log is left out, with a line on standard error.

    Raises:
        AbmllError: If there are no predictions.
    """
    cells = read_cells(predictions)
    summary = summarise(cells, baseline)
    queries = read_queries(Path(predictions).with_name(QUERIES)) if queries is None else queries
    return write_report(cells, summary, domains.ood_intervals(cells), Path(out), training_logs, run_info, queries)


def write_report(
    cells: Sequence[Cell],
    summary: Summary,
    aurocs: Aurocs,
    out: Path,
    training_logs: Mapping[str, Path],
    run_info: Mapping[str, Any],
    queries: Queries,
) -> Path:
    """`render_report` for whoever has read and summarised the predictions already.

    Args:
        aurocs: of `domains.ood_intervals`.
    """
    curves = [curve for run, path in training_logs.items() for curve in _curves(run, Path(path))]
    context = _context(cells, summary, aurocs, curves, run_info)
    context |= {"settings": settings(run_info, training_logs, summary.methods), **_examples(cells, context, queries)}
    page = _environment().get_template(TEMPLATE).render(context)
    return write_whole(out, page)


def _curves(run: str, path: Path) -> list[learning.Curve]:
    """The curves of one log; a damaged log is told and left out, since the predictions are what is reported."""
    try:
        return learning.read_curves(run, path)
    except AbmllError as error:
        tell(f"Warning: the report is made without the training log of {run}: {error}")
        return []


def _context(
    cells: Sequence[Cell],
    summary: Summary,
    aurocs: Aurocs,
    curves: Sequence[learning.Curve],
    run_info: Mapping[str, Any],
) -> dict[str, Any]:
    size = summary.support_sizes[(len(summary.support_sizes) - 1) // 2]
    looks = figures.looks(summary.methods)
    pooled = {
        method: figures.pooled(chosen)
        for method in summary.methods
        if (chosen := [c for c in cells if c.method == method and c.support_size == size])
    }
    held_out = {c.family for c in cells if c.extra.get("held_out_family")} | set(run_info.get("held_out_families", ()))
    shown_elsewhere = ("title", "held_out_families", "setting", "options")
    info = {key: value for key, value in run_info.items() if key not in shown_elsewhere and value is not None}
    if isinstance(info.get("command"), list):
        info["command"] = shlex.join(map(str, info["command"]))
    peak = figures.peak_share(pooled)
    return {
        "title": run_info.get("title") or "Accuracy and calibration on held-out tasks",
        "baseline": summary.baseline,
        "nothing_beats_uniform": nothing_beats_uniform(summary),
        "marks": legend_of_marks(summary),
        "size": size,
        "scope": _scope(cells, summary),
        "methods": list(summary.methods),
        "swatches": {method: figures.swatch(look) for method, look in looks.items()},
        "wins": wins(summary, size),
        "losses": losses(summary),
        "notes": summary.notes,
        "tables": [_table(cells, summary, k) for k in _main_first(summary.support_sizes, size)],
        "reliability": [
            {
                "method": method,
                "figure": figures.reliability(method, probs, targets, looks[method], peak),
                "ece": number(float(calibration.ece(probs, targets))),
                "count": f"{len(targets):,}".replace(",", "\u202f"),
            }
            for method, (probs, targets) in pooled.items()
        ],
        "few": figures.FEW,
        "ranks": _ranks(summary, size),
        "costs": _costs(cells, summary, size),
        "usual_kl": learning.USUAL_KL,
        "has_kl": any(curve.quantity == learning.PER_TOKEN for curve in curves),
        "domains": _domains(cells, summary, aurocs, size),
        "ood_definition": domains.DEFINITION,
        "risk_coverage": figures.risk_coverage(pooled, looks),
        "support_curves": [figures.support_curve(summary, m, looks) for m in summary.metrics]
        if len(summary.support_sizes) > 1
        else [],
        "task_blocks": [
            per_task.task_tables(cells, summary, k, held_out) for k in _main_first(summary.support_sizes, size)
        ],
        "learning": _learning_panels(curves, summary, looks),
        "info": {key: value for key, value in info.items() if not isinstance(value, Mapping)},
        "folded_info": {key: flat(value) for key, value in info.items() if isinstance(value, Mapping)},
        "definitions": [METRICS[m] for m in summary.metrics],
    }


def _examples(cells: Sequence[Cell], context: Mapping[str, Any], queries: Queries) -> dict[str, Any]:
    """The surest mistakes and the confusions of one method, the baseline if it is there, at the report's main size."""
    methods, size = context["methods"], context["size"]
    shown = context["baseline"] if context["baseline"] in methods else methods[0]
    own = [cell for cell in cells if (cell.method, cell.support_size) == (shown, size)]
    found = [
        {**mistake._asdict(), "confidence": f"{mistake.confidence:.1%}", "probability": f"{mistake.probability:.1%}"}
        for mistake in confident_mistakes(own, queries)
    ]
    return {"examples_of": shown, "mistakes": found, "confusions": confusions(own)}


def _main_first(sizes: Sequence[int], size: int) -> list[int]:
    return [size, *(k for k in sizes if k != size)]


def _scope(cells: Sequence[Cell], summary: Summary) -> dict[str, str]:
    """What the predictions cover, as label -> value."""
    families = {c.family for c in cells if c.family}
    samples = {c.log_probs.shape[0] for c in cells}
    return {
        "Methods": ", ".join(summary.methods),
        "Tasks": str(len(summary.tasks)) + (f" in {len(families)} families" if len(families) > 1 else ""),
        "Seeds": ", ".join(map(str, summary.seeds)),
        "Support examples": ", ".join(map(str, summary.support_sizes)),
        "Query examples per task": _span({len(c.targets) for c in cells}),
        "Posterior samples": _span(samples),
    }


def _span(values: set[int]) -> str:
    return str(min(values)) if len(values) == 1 else f"{min(values)} to {max(values)}"


def _table(cells: Sequence[Cell], summary: Summary, size: int) -> dict[str, Any]:
    rows = []
    for standing in summary.standings:
        if standing.support_size != size:
            continue
        entries = []
        for metric in summary.metrics:
            difference = standing.differences.get(metric)
            entries.append(
                {
                    "metric": METRICS[metric],
                    "value": mean_and_half_width(standing.estimates[metric]),
                    "best": summary.winners.get((size, metric)) == standing.method,
                    "difference": mean_and_bounds(difference.interval) if difference else "",
                    "clear": bool(difference and difference.clear),
                    "p_value": p_value(difference.p_value) if difference else "",
                    "rank": number(standing.ranks[metric], 2) if metric in standing.ranks else "",
                }
            )
        seconds = statistics.median(c.seconds for c in cells if c.method == standing.method and c.support_size == size)
        rows.append(
            {
                "method": standing.method,
                "name": marked(standing),
                "entries": entries,
                "seconds": amount(seconds),
                "cells": standing.num_cells,
            }
        )
    return {"size": size, "counts": counts(summary, size), "rows": rows, "levels": levels_line(summary, size)}


def _ranks(summary: Summary, size: int) -> dict[str, str] | None:
    """The critical-difference diagram and its numbers, for three methods or more."""
    found = per_task.ranking(summary, size)
    if found is None or len(found.methods) < 3:
        return None
    return {
        "figure": figures.critical_difference(found, per_task.RANKED),
        "metric": METRICS[per_task.RANKED].label,
        "tasks": str(found.num_tasks),
        "difference": f"{found.critical_difference:.2f}",
        "friedman": p_value(found.p_value),
    }


def _costs(cells: Sequence[Cell], summary: Summary, size: int) -> list[list[str]]:
    """A header and per method: name, seconds to adapt and to predict, steps, peak MiB, stored KiB; nothing if no cell
    knows.
    """
    rows = []
    for standing in summary.standings:
        own = [c for c in cells if (c.method, c.support_size) == (standing.method, size)]
        if standing.support_size == size and any("stored_bytes" in cell.extra for cell in own):
            rows.append([standing.method, *costs.cost_of(own).texts])
    return costs.without_dashes([["Method", *costs.LONG_COLUMNS], *rows]) if rows else []


def _domains(cells: Sequence[Cell], summary: Summary, aurocs: Aurocs, size: int) -> list[list[str]]:
    """Per method: name and out-of-domain AUROC by each score; nothing without tasks of both kinds."""
    rows = []
    for standing in summary.standings:
        own = [c for c in cells if (c.method, c.support_size) == (standing.method, size)]
        if standing.support_size == size and len({bool(c.extra.get("held_out_family")) for c in own}) == 2:
            rows.append([standing.method, *map(mean_and_half_width, aurocs[standing.method, size].values())])
    return rows


def _learning_panels(
    curves: Sequence[learning.Curve], summary: Summary, looks: Mapping[str, figures.Look]
) -> list[dict[str, str]]:
    panels = []
    other = figures.looks([*summary.methods, "other"])["other"]
    groups = learning.by_method(curves, summary.methods)
    limits = {
        q: figures.bulk([c for c in curves if c.quantity == q]) for q in dict.fromkeys(c.quantity for c in curves)
    }
    for name in [*(m for m in summary.methods if m in groups), *(n for n in groups if n not in summary.methods)]:
        group = groups[name]
        for quantity in dict.fromkeys(c.quantity for c in group):
            chosen = [c for c in group if c.quantity == quantity]
            figure = figures.learning_curve(name, chosen, looks.get(name, other), limits[quantity])
            panels.append({"name": name, "runs": str(len(chosen)), "figure": figure})
    return panels


def _environment() -> jinja2.Environment:
    # Everything is escaped but the figures, which this package draws and which the template marks `safe`.
    return jinja2.Environment(
        loader=jinja2.PackageLoader("abmll.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
