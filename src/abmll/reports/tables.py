"""The main table as text, for the terminal and for Markdown files."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

from abmll.evaluation.metrics import METRICS, Difference, Row, Summary
from abmll.evaluation.statistics import Interval

MINUS = "−"


def number(value: float, digits: int = 3) -> str:
    """0.123, −0.123 with a real minus sign, a dash for NaN; never a negative zero."""
    if math.isnan(value):
        return "–"
    text = f"{value:.{digits}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """As `number`, with a plus sign before positive numbers."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and float(f"{value:.{digits}f}") != 0 else text


def p_value(value: float) -> str:
    """p = 0.012, p < 0.001, or nothing if there is none."""
    if math.isnan(value):
        return ""
    return "p < 0.001" if value < 0.0005 else f"p = {value:.3f}"


def mean_and_half_width(interval: Interval) -> str:
    """0.712 ± 0.031: the mean and half the width of the 95 % interval."""
    return number(interval.mean) + ("" if math.isnan(interval.low) else f" ± {number(interval.half_width)}")


def mean_and_bounds(interval: Interval) -> str:
    """−0.021 [−0.044, +0.001]"""
    if math.isnan(interval.low):
        return signed(interval.mean)
    return f"{signed(interval.mean)} [{signed(interval.low)}, {signed(interval.high)}]"


def losses(summary: Summary) -> list[str]:
    """One sentence for each metric and support size where the baseline is not best: what beats it, by how much."""
    sentences = []
    for size in summary.support_sizes:
        base = summary.row(summary.baseline, size)
        if base is None:
            continue
        others = [r for r in summary.rows if r.support_size == size and r.method != summary.baseline]
        for metric in summary.metrics:
            better = METRICS[metric].better
            if better is None:
                continue
            sign = 1 if better == "higher" else -1
            gains = [(sign * r.differences[metric].interval.mean, r) for r in others]
            gain, row = max(gains, key=lambda pair: pair[0] if pair[0] > 0 else 0, default=(0.0, base))
            if gain > 0:
                sentences.append(_loss(summary, row, metric, better))
    return sentences


def _loss(summary: Summary, row: Row, metric: str, better: str) -> str:
    interval = row.differences[metric].interval
    bounds = sorted((abs(interval.low), abs(interval.high)))
    if interval.excludes_zero:
        certainty = f"95 % interval {number(bounds[0])} to {number(bounds[1])}"
    elif math.isnan(interval.low):
        certainty = "no interval: one cell only"
    else:
        certainty = "the 95 % interval includes 0"
    return (
        f"On this suite {row.method} has {better} {METRICS[metric].label} than {summary.baseline} by "
        f"{number(abs(interval.mean))} with {row.support_size} support examples ({certainty})."
    )


def text_table(summary: Summary, color: bool | None = None) -> str:
    """The summary for a terminal: means, then paired differences, per support size, then notes.

    The winner of a metric (its paired 95 % interval against every other method excludes 0) carries a `*`, and
    is bold if `color`; by default colour is used only where standard output is a terminal.
    """
    color = sys.stdout.isatty() if color is None else color
    bold = (lambda text: f"\x1b[1m{text}\x1b[0m") if color else (lambda text: text)
    blocks = []
    for size in summary.support_sizes:
        title = f"{size} support examples: mean ± half of the 95 % interval over tasks × seeds"
        rows = _mean_rows(summary, size, lambda text: f"{text} *", lambda text: f"{text}  ")
        blocks.append(f"{title}\n{_aligned(rows, bold)}")
        if len(rows := _difference_rows(summary, size)) > 1:
            title = f"{size} support examples: difference to {summary.baseline} on the same (task, seed) cells"
            blocks.append(f"{title}\n{_aligned(rows, lambda text: text)}")
    marked = "* best: its paired 95 % interval against every other method excludes 0"
    if summary.winners:
        blocks[-1] += f"\n{marked}"
    remarks = [f"- {note}" for note in (*losses(summary), *summary.notes)]
    return "\n\n".join([*blocks, *(["\n".join(remarks)] if remarks else [])])


def markdown_table(summary: Summary) -> str:
    """The summary as GitHub-flavoured Markdown; winners in bold."""
    blocks = []
    for size in summary.support_sizes:
        rows = _mean_rows(summary, size, lambda text: f"**{text}**", lambda text: text)
        blocks.append(f"With {size} support examples, mean ± half of the 95 % interval:\n\n{_markdown(rows)}")
        if len(rows := _difference_rows(summary, size)) > 1:
            title = f"Difference to {summary.baseline} on the same (task, seed) cells, 95 % interval:"
            blocks.append(f"{title}\n\n{_markdown(rows)}")
    remarks = [f"- {note}" for note in (*losses(summary), *summary.notes)]
    return "\n\n".join([*blocks, *(["\n".join(remarks)] if remarks else [])]) + "\n"


Mark = Callable[[str], str]


def _header(summary: Summary) -> list[str]:
    return [f"{METRICS[m].label} {METRICS[m].arrow}".strip() for m in summary.metrics]


def _mean_rows(summary: Summary, size: int, best: Mark, plain: Mark) -> list[list[str]]:
    rows = [["Method", *_header(summary), "Tasks", "Seeds"]]
    for row in summary.rows:
        if row.support_size == size:
            marks = [best if summary.winners.get((size, m)) == row.method else plain for m in summary.metrics]
            texts = [mean_and_half_width(row.estimates[m]) for m in summary.metrics]
            cells = [mark(text) for mark, text in zip(marks, texts, strict=True)]
            rows.append([row.method, *cells, str(row.num_tasks), str(row.num_seeds)])
    return rows


def _difference_rows(summary: Summary, size: int) -> list[list[str]]:
    rows = [["Method", *_header(summary)]]
    for row in summary.rows:
        if row.support_size == size and row.differences:
            rows.append([row.method, *(_difference(row.differences[m]) for m in summary.metrics)])
    return rows


def _difference(difference: Difference) -> str:
    return mean_and_bounds(difference.interval)


def _aligned(rows: list[list[str]], bold: Mark) -> str:
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


def _markdown(rows: list[list[str]]) -> str:
    escaped = [[text.replace("|", "\\|") for text in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines)
