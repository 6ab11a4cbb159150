"""Mean ranks of methods over tasks, and which of them differ: the test of Friedman, the critical difference of Nemenyi.

There is one definition of a rank: a task is one observation, a method's value there its mean over the seeds that all
methods have (seeds share the task's rows), equal values share a place, and 1 is the best.
Source: Demšar 2006, "Statistical comparisons of classifiers over multiple data sets", JMLR 7, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from abmll.core.errors import AbmllError
from abmll.evaluation.statistics import midranks, seed_means


@dataclass(frozen=True)
class Ranking:
    """Methods by their mean ranks over tasks.

    Attributes:
        methods: best mean rank first, 1 being the best of all on every task.
        groups: the largest sets of neighbours whose mean ranks lie within the critical difference, by method name; each
            has at least two.
    """

    methods: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    num_tasks: int
    p_value: float
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]


def rank_methods(methods: Sequence[str], values: np.ndarray, higher_is_better: bool) -> Ranking | None:
    """The ranking by `values` (tasks, methods), one number a task and method, over the tasks where all have one.

    None for fewer than two methods or tasks.
    """
    ranks = _task_ranks(values, higher_is_better)
    num_tasks, count = ranks.shape
    if count < 2 or num_tasks < 2:
        return None
    means = ranks.mean(0)
    order = np.argsort(means, kind="stable")
    names, sorted_means = tuple(methods[i] for i in order), means[order]
    width = nemenyi_difference(count, num_tasks)
    groups = tuple(names[first : last + 1] for first, last in _groups(sorted_means, width))
    return Ranking(names, tuple(sorted_means.tolist()), num_tasks, friedman(ranks), width, groups)


def mean_ranks(values: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """(methods,): the mean ranks by `values` (tasks, methods) over the tasks where all have one; NaN if none has."""
    ranks = _task_ranks(values, higher_is_better)
    return ranks.mean(0) if len(ranks) else np.full(ranks.shape[1], np.nan)


def shared_task_means(values: np.ndarray) -> np.ndarray:
    """(tasks, methods) from (methods, tasks, seeds): means over the seeds in which every method has a value, NaN for a
    task without such a seed. A method that lacks a seed is not compared with the luck of that seed in the others.
    """
    shared = ~np.isnan(values).any(0)
    return seed_means(np.where(shared, values, np.nan)).T


def _task_ranks(values: np.ndarray, higher_is_better: bool) -> np.ndarray:
    # means of equal numbers in another order differ in their last bits, and would not tie
    values = np.round(np.asarray(values, dtype=np.float64), 12)
    values = values[~np.isnan(values).any(1)]
    return midranks(-values if higher_is_better else values)


def friedman(ranks: np.ndarray) -> float:
    """p-value of Friedman's test that all methods are alike, from ranks (tasks, methods), corrected for ties.

    1 if every task ranks all methods equal. With two methods the χ² approximation is the sign test's.
    """
    num_tasks, count = ranks.shape
    tied = sum((t**3 - t) for row in ranks for t in np.unique(row, return_counts=True)[1])
    correction = 1 - tied / (num_tasks * (count**3 - count))
    if correction <= 0:
        return 1.0
    if count > 2:
        return float(stats.friedmanchisquare(*ranks.T).pvalue)
    spread = ((ranks.mean(0) - (count + 1) / 2) ** 2).sum()
    return float(stats.chi2.sf(12 * num_tasks / (count * (count + 1)) * spread / correction, count - 1))


def nemenyi_difference(num_methods: int, num_tasks: int, alpha: float = 0.05) -> float:
    """Mean ranks that lie further apart differ, jointly over all pairs: q·√(k(k+1)/6N), q of `nemenyi_quantile`."""
    return nemenyi_quantile(num_methods, alpha) * math.sqrt(num_methods * (num_methods + 1) / (6 * num_tasks))


def nemenyi_quantile(num_methods: int, alpha: float = 0.05) -> float:
    """The upper α quantile of the range of k standard normal variables (infinite degrees of freedom), over √2."""
    if num_methods < 2 or not 0 < alpha < 1:
        raise AbmllError(f"Nemenyi's test compares at least 2 methods at 0 < alpha < 1; got {num_methods}, {alpha}.")
    return float(stats.studentized_range.ppf(1 - alpha, num_methods, np.inf) / math.sqrt(2))


def _groups(means: np.ndarray, width: float) -> list[tuple[int, int]]:
    """(first, last) of every maximal run of sorted means that spans at most `width`."""
    runs: list[tuple[int, int]] = []
    for first in range(len(means)):
        last = int(np.searchsorted(means, means[first] + width, side="right")) - 1
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs
