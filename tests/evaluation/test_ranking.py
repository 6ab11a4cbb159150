"""Ranks over tasks against Demšar 2006: his table of quantiles, his worked example, his rule of groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.evaluation.ranking import friedman, nemenyi_difference, nemenyi_quantile, rank_methods
from abmll.evaluation.statistics import midranks

# Demšar 2006, table 5 (a): critical values of the two-tailed Nemenyi test for 2 to 10 classifiers
DEMSAR_05 = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)
DEMSAR_10 = (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920)

# Demšar 2006, table 6: AUC of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf on 14 data sets
EXAMPLE = np.array(
    [
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
    ]
)  # fmt: skip
NAMES = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")


@pytest.mark.parametrize(("alpha", "table"), [(0.05, DEMSAR_05), (0.10, DEMSAR_10)])
def test_quantiles_are_those_of_the_published_table(alpha, table):
    for count, published in enumerate(table, start=2):
        assert nemenyi_quantile(count, alpha) == pytest.approx(published, abs=1.1e-3)


def test_the_worked_example():
    found = rank_methods(NAMES, EXAMPLE, higher_is_better=True)
    ranks = dict(zip(found.methods, found.mean_ranks, strict=True))
    assert [round(ranks[name], 3) for name in NAMES] == [3.143, 2.000, 2.893, 1.964]
    assert found.methods == ("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")
    assert found.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)  # 1.25 there
    assert found.num_tasks == 14
    # No pair of neighbours but C4.5 with the two best is within 1.25: 3.143 - 1.964 = 1.18, so all are joined.
    assert found.groups == (found.methods,)
    assert found.p_value < 0.05


def test_friedman_against_permutations():
    generator = np.random.default_rng(0)
    ranks = midranks(generator.normal(size=(8, 4)).round(1) + np.array([0, 0.5, 1.0, 1.2]))
    spread = lambda r: ((r.mean(-2) - 2.5) ** 2).sum(-1)  # noqa: E731
    shuffled = generator.permuted(np.broadcast_to(ranks, (40000, 8, 4)), axis=2)
    exact = (spread(shuffled) >= spread(ranks) - 1e-12).mean()
    assert friedman(ranks) == pytest.approx(exact, abs=0.02)  # χ² is an approximation for 8 tasks


def test_friedman_of_distinct_ranks_is_the_textbook_statistic():
    ranks = np.array([[1, 2, 3], [1, 3, 2], [1, 2, 3], [2, 1, 3.0]])
    statistic = 12 / (4 * 3 * 4) * (ranks.sum(0) ** 2).sum() - 3 * 4 * 4
    assert friedman(ranks) == pytest.approx(np.exp(-statistic / 2), rel=1e-12)  # χ² with 2 degrees of freedom
    assert friedman(np.full((5, 3), 2.0)) == 1.0


def test_groups_are_the_maximal_runs():
    values = np.array([[1.0, 2.0, 3.0, 4.0]] * 40)  # ranks 1, 2, 3, 4 on each of 40 tasks: nothing is within 0.74
    assert rank_methods("abcd", values, higher_is_better=False).groups == ()
    values = np.array([[1.0, 2.0, 3.0, 4.0]] * 10)  # within 1.48: neighbours only
    found = rank_methods("abcd", values, higher_is_better=False)
    assert found.groups == (("a", "b"), ("b", "c"), ("c", "d"))
    assert rank_methods("abcd", values, higher_is_better=True).methods == ("d", "c", "b", "a")


def test_only_tasks_that_all_methods_have_are_ranked():
    values = np.array([[0.9, 0.5], [np.nan, 0.4], [0.8, 0.9], [0.7, 0.1]])
    found = rank_methods("ab", values, higher_is_better=True)
    assert (found.num_tasks, found.mean_ranks) == (3, pytest.approx((4 / 3, 5 / 3)))
    assert rank_methods("ab", values[:2], higher_is_better=True) is None
    assert rank_methods("a", values[:, :1], higher_is_better=True) is None


def test_the_range_of_many_normals_against_draws():
    draws = torch.randn(200_000, 19, generator=torch.Generator().manual_seed(0))
    ranges = draws.amax(1) - draws.amin(1)
    assert nemenyi_quantile(19) * np.sqrt(2) == pytest.approx(torch.quantile(ranges, 0.95).item(), abs=0.02)
    assert nemenyi_difference(19, 10) == pytest.approx(nemenyi_quantile(19) * np.sqrt(19 * 20 / 60))
    with pytest.raises(AbmllError, match="at least 2 methods"):
        nemenyi_quantile(1)
