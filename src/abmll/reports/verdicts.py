"""Sentences that say who is better at what, and how sure that is: the summary for people who skip tables."""

from __future__ import annotations

import math

from abmll.evaluation.metrics import METRICS, Row, Summary
from abmll.reports.notation import number, signed


def wins(summary: Summary, size: int) -> list[str]:
    """One sentence for each metric on which the baseline has the best mean at a support size: the next best, and
    whether the difference is clear.
    """
    base = summary.row(summary.baseline, size)
    others = [r for r in summary.rows if r.support_size == size and r.method != summary.baseline]
    if base is None or not others:
        return []
    sentences = []
    for metric in summary.metrics:
        sign = {"higher": 1, "lower": -1, None: 0}[METRICS[metric].better]
        gain, row = max(((sign * r.differences[metric].interval.mean, r) for r in others), key=lambda pair: pair[0])
        if sign and gain <= 0:
            interval = row.differences[metric].interval
            bounds = f"{signed(interval.low)} to {signed(interval.high)}"
            clear = "" if interval.excludes_zero else ", so the two cannot be told apart"
            spread = "one cell only" if math.isnan(interval.low) else f"95 % interval {bounds}{clear}"
            mean = number(base.estimates[metric].mean)
            sentences.append(
                f"{METRICS[metric].label}: {summary.baseline} has the best mean, {mean}; "
                f"next is {row.method}, {signed(interval.mean)} ({spread})."
            )
    return sentences


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
