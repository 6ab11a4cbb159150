"""Intervals and tests for results that vary over tasks and seeds. Arrays in, numbers out; deterministic.

Results are arrays (tasks, seeds) with NaN where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean over tasks × seeds and its 95 % bootstrap interval; its ends are NaN if there is one value only."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def seed_means(values: np.ndarray) -> np.ndarray:
    """Means over the last axis, of what is not NaN; NaN where there is nothing else."""
    present = ~np.isnan(values)
    count = present.sum(-1)
    return np.where(count > 0, np.where(present, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


def bootstrap_interval(values: np.ndarray, num_draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of (tasks, seeds) values, and the 2.5 and 97.5 percentiles of its hierarchical bootstrap.

    Each draw takes tasks with replacement, then seeds with replacement, and averages the cells at their
    crossings. Seeds are drawn for all tasks at once: a seed is one trained model, whose luck all tasks share,
    so drawing anew within each task would average that luck away. Cells that are NaN are left out. Arrays of
    equal shape are resampled alike, so that intervals of different methods rest on the same draws.

    Few tasks or seeds make the interval too narrow: n values drawn with replacement vary by (n-1)/n of their
    variance.
    Source: the crossed ("pigeonhole") bootstrap of Owen 2007.
    """
    values = np.asarray(values, dtype=np.float64)
    present = ~np.isnan(values)
    if not present.any():
        return Interval(np.nan, np.nan, np.nan)
    mean = float(values[present].mean())
    if present.sum() == 1:
        return Interval(mean, np.nan, np.nan)
    task_counts, seed_counts = _counts(*values.shape, num_draws, seed)
    # Σ_ts task_counts·values·seed_counts of every draw, the seeds' sum inside: a product of two matrices.
    total = ((task_counts @ np.where(present, values, 0)) * seed_counts).sum(1)
    if present.all():
        means = total / values.size  # every draw has as many cells as there are
    else:
        weight = ((task_counts @ present) * seed_counts).sum(1)
        means = total[weight > 0] / weight[weight > 0]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


@lru_cache(maxsize=16)
def _counts(num_tasks: int, num_seeds: int, num_draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each draw has each task and each seed, (draws, tasks) and (draws, seeds); the same for every array."""
    generator = np.random.default_rng(seed)
    tasks, seeds = (
        generator.multinomial(count, np.full(count, 1 / count), size=num_draws).astype(np.float64)
        for count in (num_tasks, num_seeds)
    )
    for counts in (tasks, seeds):
        counts.flags.writeable = False  # callers share them
    return tasks, seeds


def midranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, from 1 for the smallest; equal values share the mean of their ranks."""
    values = np.asarray(values, dtype=np.float64)
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    ranks: np.ndarray = below + (equal + 1) / 2
    return ranks


def wilcoxon_signed_rank(differences: np.ndarray) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test that paired differences are symmetric about 0.

    Exact at every size and with ties: the distribution of the rank sum over all 2^n signs, built up rank by
    rank. Zeros are dropped (Wilcoxon's way) and magnitudes are compared after rounding to 12 decimals. It
    cannot be smaller than 2^(1-n) for n differences: 0.0625 for 5. NaN if there are none; 1 if all are zero.
    """
    differences = np.round(np.asarray(differences, dtype=np.float64), 12)
    differences = differences[~np.isnan(differences)]
    if differences.size == 0:
        return float("nan")
    differences = differences[differences != 0]
    # Twice a midrank is a whole number, so that rank sums index an array.
    ranks = np.rint(2 * midranks(np.abs(differences))).astype(int)
    probability = np.ones(1)
    for rank in ranks:
        shifted = np.concatenate([np.zeros(rank), probability])
        probability = (np.concatenate([probability, np.zeros(rank)]) + shifted) / 2
    positive = int(ranks[differences > 0].sum())
    extreme = min(positive, int(ranks.sum()) - positive)
    return float(min(1.0, 2 * probability[: extreme + 1].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p-values that hold jointly. NaN stays NaN and is not counted.

    Source: Holm 1979. Sorted p_(1) <= ... <= p_(m): adjusted p_(i) = max_{j<=i} min(1, (m - j + 1)·p_(j)).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")[: int((~np.isnan(p)).sum())]
    adjusted = np.full(len(p), np.nan)
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(np.minimum(1, factors * p[order]))
    return adjusted.tolist()
