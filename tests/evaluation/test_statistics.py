"""Intervals and tests against brute force over all resamples, signs and orders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from abmll.evaluation.statistics import bootstrap_interval, holm, midranks, wilcoxon_signed_rank

RNG = np.random.default_rng(0)


class TestBootstrap:
    def test_matches_all_resamples(self):
        """3 tasks × 2 seeds have 27 × 4 equally likely resamples: 2.5 % of them lie beyond either end."""
        values = np.array([[0.1, 0.2], [0.4, 0.6], [0.9, 0.5]])
        found = [
            values[np.ix_(tasks, seeds)].mean()
            for tasks in itertools.product(range(3), repeat=3)
            for seeds in itertools.product(range(2), repeat=2)
        ]
        interval = bootstrap_interval(values, num_draws=200_000)
        assert interval.mean == pytest.approx(values.mean())
        means = np.array(found)  # a discrete distribution: mass on the end itself counts for either side
        assert (means < interval.low - 1e-9).mean() <= 0.027
        assert (means <= interval.low + 1e-9).mean() >= 0.023
        assert (means > interval.high + 1e-9).mean() <= 0.027
        assert (means >= interval.high - 1e-9).mean() >= 0.023

    def test_is_deterministic_and_depends_on_the_seed(self):
        values = RNG.normal(size=(8, 3))
        assert bootstrap_interval(values) == bootstrap_interval(values.copy())
        assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)

    def test_a_seed_that_shifts_all_tasks_widens_the_interval(self):
        """Seeds are crossed with tasks: their common luck does not average out over tasks."""
        luck = np.array([-1.0, 0.0, 1.0])
        crossed = np.tile(luck, (50, 1))
        nested = np.stack([np.roll(luck, i) for i in range(50)])  # same values, no luck in common
        assert bootstrap_interval(crossed).half_width > 5 * bootstrap_interval(nested).half_width

    def test_coverage_of_the_true_mean(self):
        """Tasks vary, seeds and noise vary: about 95 % of the intervals hold the true mean 0."""
        hits = 0
        for _ in range(300):
            values = RNG.normal(size=(20, 1)) + 0.3 * RNG.normal(size=(1, 6)) + 0.3 * RNG.normal(size=(20, 6))
            interval = bootstrap_interval(values, num_draws=400)
            hits += interval.low <= 0 <= interval.high
        assert 0.88 < hits / 300 < 0.99

    @pytest.mark.parametrize("missing", [0.0, 0.3, 0.9])
    @pytest.mark.parametrize("shape", [(1, 4), (6, 1), (7, 3)])
    def test_equals_drawing_tasks_and_seeds_one_by_one(self, shape, missing):
        """The definition, cell by cell, on the same draws."""
        values = np.random.default_rng(1).normal(size=shape)
        values[np.random.default_rng(2).random(shape) < missing] = np.nan
        values.flat[:2] = 0.5, -0.5
        generator, means = np.random.default_rng(3), []
        tasks, seeds = (generator.multinomial(n, np.full(n, 1 / n), size=300) for n in shape)
        for task_counts, seed_counts in zip(tasks, seeds, strict=True):
            drawn = [
                values[t, s]
                for t in np.repeat(np.arange(shape[0]), task_counts)
                for s in np.repeat(np.arange(shape[1]), seed_counts)
                if not np.isnan(values[t, s])
            ]
            if drawn:
                means.append(np.mean(drawn))
        expected = np.nanmean(values), *np.quantile(means, [0.025, 0.975])
        assert bootstrap_interval(values, num_draws=300, seed=3) == pytest.approx(expected, rel=1e-12, abs=1e-14)

    def test_missing_cells_are_left_out(self):
        values = np.array([[1.0, np.nan], [3.0, 5.0]])
        interval = bootstrap_interval(values)
        assert interval.mean == 3
        assert 1 <= interval.low <= 3 <= interval.high <= 5

    def test_one_value_has_no_interval_and_none_has_no_mean(self):
        assert math.isnan(bootstrap_interval(np.array([[2.0]])).low)
        assert math.isnan(bootstrap_interval(np.full((2, 2), np.nan)).mean)

    def test_constant_values_have_a_point_interval(self):
        interval = bootstrap_interval(np.full((4, 3), 0.25))
        assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)


def brute_wilcoxon(differences: list[float]) -> float:
    """Two-sided p over all 2^n signs of the midranks."""
    kept = [d for d in differences if d != 0]
    if not kept:
        return 1.0
    sizes = sorted(abs(d) for d in kept)
    ranks = [np.mean([i + 1 for i, s in enumerate(sizes) if s == abs(d)]) for d in kept]
    observed = sum(r for r, d in zip(ranks, kept, strict=True) if d > 0)
    extreme = min(observed, sum(ranks) - observed)
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product([0, 1], repeat=len(ranks))]
    return min(1.0, 2 * sum(s <= extreme for s in sums) / len(sums))


class TestWilcoxon:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
    def test_matches_all_signs_with_ties_and_zeros(self, differences):
        assert wilcoxon_signed_rank(np.array(differences)) == pytest.approx(brute_wilcoxon(differences), abs=1e-12)

    def test_published_example(self):
        """Ten pairs, ranks 1..10 with W = 8: p = 0.0488 in tables (2 × 25 / 1024)."""
        differences = np.arange(1, 11.0) * np.array([1, -1, 1, 1, -1, 1, 1, 1, 1, 1]) - 0.0
        differences[0] = -1.0  # negative ranks: 1 + 2 + 5 = 8
        assert wilcoxon_signed_rank(differences) == pytest.approx(2 * 25 / 1024)

    def test_all_of_one_sign_gives_the_smallest_p(self):
        for n in range(1, 9):
            assert wilcoxon_signed_rank(RNG.uniform(0.1, 1, n)) == pytest.approx(min(1, 2 ** (1 - n)))

    def test_large_samples_agree_with_the_normal_approximation(self):
        differences = RNG.normal(0.1, 1, 300)
        ranks = midranks(np.abs(differences))
        z = (ranks[differences > 0].sum() - 300 * 301 / 4) / math.sqrt(300 * 301 * 601 / 24)
        assert wilcoxon_signed_rank(differences) == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), rel=0.02)

    def test_rounding_does_not_break_ties(self):
        """0.3 - 0.2 and 0.2 - 0.1 differ in the last bit."""
        differences = np.array([0.3 - 0.2, 0.2 - 0.1, -(0.4 - 0.3)])
        assert wilcoxon_signed_rank(differences) == 1

    def test_nothing_to_compare(self):
        assert math.isnan(wilcoxon_signed_rank(np.array([np.nan])))
        assert wilcoxon_signed_rank(np.zeros(5)) == 1


class TestHolm:
    def test_worked_example(self):
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
    def test_is_the_closed_test_of_bonferroni(self, p_values):
        """A hypothesis is rejected if Bonferroni rejects every intersection it is part of."""
        indices = range(len(p_values))
        for i, adjusted in enumerate(holm(p_values)):
            subsets = [s for k in indices for s in itertools.combinations(indices, k + 1) if i in s]
            expected = max(min(1, len(s) * min(p_values[j] for j in s)) for s in subsets)
            assert adjusted == pytest.approx(expected)

    def test_undefined_values_are_not_counted(self):
        adjusted = holm([0.02, math.nan, 0.5])
        assert adjusted[0] == 0.04
        assert math.isnan(adjusted[1])
        assert adjusted[2] == 0.5


def test_midranks():
    assert midranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1, 3.5, 2]
    assert midranks(np.array([[1.0, 1.0], [2.0, 1.0]])).tolist() == [[1.5, 1.5], [2, 1]]


@pytest.mark.parametrize("n", [6, 10, 25, 48])
def test_wilcoxon_is_scipys_where_scipy_is_exact(n):
    """SciPy's exact test knows no ties: with them it permutes signs, of few values all."""
    differences = np.random.default_rng(n).normal(0.2, 1, n)
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert wilcoxon_signed_rank(differences) == pytest.approx(expected, rel=1e-9)


def test_wilcoxon_with_ties_is_scipys_permutation_test():
    differences = np.array([0.1, 0.1, -0.2, 0.3, 0.3, 0.3, -0.1, 0.4, 0.0])
    method = stats.PermutationMethod(n_resamples=np.inf)
    expected = stats.wilcoxon(differences[differences != 0], method=method).pvalue
    assert wilcoxon_signed_rank(differences) == pytest.approx(expected, rel=1e-9)
