"""Sentences that say who is better at what, and how sure that is: the summary for people who skip tables."""

from __future__ import annotations

import math

from abmll.evaluation.metrics import METRICS
from abmll.evaluation.references import UNIFORM, is_rival
from abmll.evaluation.summary import MIN_TASKS, Standing, Summary
from abmll.reports.notation import number, signed

MARK = "†"
"""Beside a method that does not beat uniform."""
VISIBLE = 0.0005
"""The smallest difference that three decimals show."""


def nothing_beats_uniform(summary: Summary) -> list[str]:
    """One sentence for each support size at which no method has a clearly lower NLL than uniform."""
    sentences = []
    for size in summary.support_sizes:
        found = [
            standing for standing in summary.standings if standing.support_size == size and standing.method != UNIFORM
        ]
        if found and not any(standing.beats_uniform for standing in found):
            clearly = "" if found[0].num_tasks < MIN_TASKS else "clearly "
            sentences.append(
                f"Nothing here beats uniform: with {size} support examples no method has a {clearly}lower NLL than "
                f"{number(summary.mean_levels(size).uniform_nll)}, that of giving every choice of a row the same "
                "probability (paired, same cells)."
            )
    return sentences


def marked(standing: Standing) -> str:
    """The method's name, with `MARK` where it does not beat uniform."""
    return standing.method if standing.method == UNIFORM or standing.beats_uniform else f"{standing.method} {MARK}"


def legend_of_marks(summary: Summary) -> list[str]:
    """What `MARK` means, if a method has it."""
    found = any(marked(standing) != standing.method for standing in summary.standings)
    return [f"{MARK} does not beat uniform: no clearly lower NLL on the same cells."] if found else []


def levels_line(summary: Summary, size: int) -> str:
    """Chance, majority and uniform's NLL at a support size, in one line."""
    chance, majority, uniform_nll = map(number, summary.mean_levels(size))
    return f"Chance {chance}, commonest label {majority} (accuracy); uniform {uniform_nll} (NLL)."


def wins(summary: Summary, size: int) -> list[str]:
    """One sentence for each metric on which the baseline has the best mean at a support size: the next best, and
    whether the difference is clear.
    """
    base = summary.standing(summary.baseline, size)
    others = [r for r in summary.standings if r.support_size == size and r.method != summary.baseline]
    if base is None or not others:
        return []
    sentences = []
    for metric in summary.metrics:
        sign = {"higher": 1, "lower": -1, None: 0}[METRICS[metric].better]
        gains = [(sign * r.differences[metric].interval.mean, r) for r in others if is_rival(r.method, metric)]
        gain, standing = max(gains, key=lambda pair: pair[0], default=(1.0, base))
        mean = number(base.estimates[metric].mean)
        if sign and abs(gain) < VISIBLE:
            sentences.append(
                f"{METRICS[metric].label}: {summary.baseline} has the best mean, {mean}, and so has {standing.method}."
            )
        elif sign and gain < 0:
            interval = standing.differences[metric].interval
            bounds = f"{signed(interval.low)} to {signed(interval.high)}"
            clear = "" if standing.differences[metric].clear else "; the two cannot be told apart"
            spread = "one cell only" if math.isnan(interval.low) else f"95 % interval {bounds}{clear}"
            sentences.append(
                f"{METRICS[metric].label}: {summary.baseline} has the best mean, {mean}; "
                f"next is {standing.method}, {signed(interval.mean)} ({spread})."
            )
    return sentences


def losses(summary: Summary) -> list[str]:
    """One sentence for each metric and support size where the baseline is not best: what beats it, by how much."""
    sentences = []
    for size in summary.support_sizes:
        base = summary.standing(summary.baseline, size)
        if base is None:
            continue
        others = [r for r in summary.standings if r.support_size == size and r.method != summary.baseline]
        for metric in summary.metrics:
            better = METRICS[metric].better
            if better is None:
                continue
            sign = 1 if better == "higher" else -1
            gains = [(sign * r.differences[metric].interval.mean, r) for r in others if is_rival(r.method, metric)]
            gain, standing = max(gains, key=lambda pair: pair[0] if pair[0] > 0 else 0, default=(0.0, base))
            if gain >= VISIBLE:
                sentences.append(_loss(summary, standing, metric, better))
    return sentences


def _loss(summary: Summary, standing: Standing, metric: str, better: str) -> str:
    interval = standing.differences[metric].interval
    bounds = sorted((abs(interval.low), abs(interval.high)))
    if standing.differences[metric].clear:
        certainty = f"95 % interval {number(bounds[0])} to {number(bounds[1])}"
    elif math.isnan(interval.low):
        certainty = "no interval: one cell only"
    else:
        certainty = "the two cannot be told apart"
    return (
        f"On this suite {standing.method} has {better} {METRICS[metric].label} than {summary.baseline} by "
        f"{number(abs(interval.mean))} with {standing.support_size} support examples ({certainty})."
    )
