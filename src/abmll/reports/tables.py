"""The main table as text, for the terminal and for Markdown files."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

from abmll.evaluation.metrics import METRICS
from abmll.evaluation.summary import Difference, Summary
from abmll.reports.notation import mean_and_bounds, mean_and_half_width, number, signed
from abmll.reports.verdicts import legend_of_marks, levels_line, losses, marked, nothing_beats_uniform


def text_table(summary: Summary, color: bool | None = None) -> str:
    """The summary for a terminal: means, then paired differences, per support size, then notes.

    A winner and a difference that are clear (`Difference.clear`) carry a `*`, and are bold if `color`: by default,
    where standard output is a terminal. Where nothing beats uniform, that is the first line.
    """
    color = sys.stdout.isatty() if color is None else color
    bold = _bold if color else _plain
    blocks = nothing_beats_uniform(summary)
    for size in summary.support_sizes:
        means = _mean_rows(summary, size, _starred, _padded)
        blocks.append(f"{_mean_title(summary, size)}\n{aligned_rows(means, bold)}")
        blocks.append(levels_line(summary, size))
        differences = _difference_rows(summary, size, _starred_difference)
        if len(differences) > 1:
            blocks.append(f"{_difference_title(summary, size)}\n{aligned_rows(differences, bold)}")
    legend = "± half of the 95 % interval."
    if len(summary.methods) > 1:
        legend += (
            " * p ≤ 0.05 by Wilcoxon's signed-rank test over tasks, Holm-corrected: "
            f"against {summary.baseline} for a difference, against every other method for a mean."
        )
    return "\n\n".join([*blocks, legend, *legend_of_marks(summary), *_remarks(summary)]) + "\n"


def markdown_table(summary: Summary) -> str:
    """The summary as GitHub-flavoured Markdown; winners in bold."""
    blocks = nothing_beats_uniform(summary)
    for size in summary.support_sizes:
        means = _mean_rows(summary, size, lambda text: f"**{text}**", _plain)
        blocks.append(f"{_mean_title(summary, size)} (mean ± half of the 95 % interval)\n\n{markdown_rows(means)}")
        blocks.append(levels_line(summary, size))
        differences = _difference_rows(summary, size, lambda d: mean_and_bounds(d.interval))
        if len(differences) > 1:
            blocks.append(f"{_difference_title(summary, size)} (95 % interval)\n\n{markdown_rows(differences)}")
    return "\n\n".join([*blocks, *legend_of_marks(summary), *_remarks(summary)]) + "\n"


def counts(summary: Summary, size: int) -> str | None:
    """ "10 tasks × 3 seeds" if that holds for all methods of a support size."""
    found = {(r.num_tasks, r.num_seeds, r.num_cells) for r in summary.standings if r.support_size == size}
    tasks, seeds, cells = next(iter(found))
    if len(found) > 1 or tasks * seeds != cells:
        return None
    return f"{tasks} task{'s' * (tasks > 1)} × {seeds} seed{'s' * (seeds > 1)}"


Mark = Callable[[str], str]


def _header(summary: Summary) -> list[str]:
    return [f"{METRICS[m].label} {METRICS[m].arrow}".strip() for m in summary.metrics]


def _mean_title(summary: Summary, size: int) -> str:
    return f"{size} support examples, {counts(summary, size) or 'unequal sets of tasks and seeds'}"


def _difference_title(summary: Summary, size: int) -> str:
    return f"{size} support examples, difference to {summary.baseline} on the same tasks and seeds"


def _mean_rows(summary: Summary, size: int, best: Mark, other: Mark) -> list[list[str]]:
    unequal = counts(summary, size) is None
    rows = [["Method", *_header(summary), *(["Cells"] if unequal else [])]]
    for standing in summary.standings:
        if standing.support_size == size:
            marks = [best if summary.winners.get((size, m)) == standing.method else other for m in summary.metrics]
            texts = [mean_and_half_width(standing.estimates[m]) for m in summary.metrics]
            cells = [mark(text) for mark, text in zip(marks, texts, strict=True)]
            rows.append([marked(standing), *cells, *([str(standing.num_cells)] if unequal else [])])
    return rows


def _difference_rows(summary: Summary, size: int, show: Callable[[Difference], str]) -> list[list[str]]:
    rows = [["Method", *_header(summary)]]
    for standing in summary.standings:
        if standing.support_size == size and standing.differences:
            rows.append([standing.method, *(show(standing.differences[m]) for m in summary.metrics)])
    return rows


def _remarks(summary: Summary) -> list[str]:
    remarks = [*losses(summary), *summary.notes]
    return ["\n".join(f"- {remark}" for remark in remarks)] if remarks else []


def _plain(text: str) -> str:
    return text


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m"


def _starred(text: str) -> str:
    return f"{text} *"


def _padded(text: str) -> str:
    return f"{text}  "


def _starred_difference(difference: Difference) -> str:
    interval = difference.interval
    half = "" if math.isnan(interval.low) else f" ± {number(interval.half_width)}"
    return (_starred if difference.clear else _padded)(signed(interval.mean) + half)


def aligned_rows(rows: list[list[str]], bold: Mark) -> str:
    """Rows, the first a header, in columns as wide as they need; texts that end in a star go through `bold`."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        for text, width in zip(row[1:], widths[1:], strict=True):
            padded = text.rjust(width)
            cells.append(bold(padded) if text.endswith("*") else padded)
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "─" * max(len(line) for line in lines))
    return "\n".join(lines)


def markdown_rows(rows: list[list[str]]) -> str:
    """Rows, the first a header, as a Markdown table."""
    escaped = [[text.replace("|", "\\|") for text in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines)
