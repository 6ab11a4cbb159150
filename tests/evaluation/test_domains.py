"""Out-of-domain AUROC: against pairs counted one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from abmll.evaluation import calibration
from abmll.evaluation.domains import SCORES, doubt, mutual_information, ood_aurocs, ood_interval
from abmll.evaluation.predictions import Cell


def cell(task, seed, held_out, *, samples=4, query=6):
    generator = torch.Generator().manual_seed(seed * 100 + ord(task))
    logits = torch.randn(samples, query, 3, generator=generator) * (3 if held_out else 1)
    return Cell(
        "abmll", seed, task, "f", 16, [f"{task}{i}" for i in range(query)], torch.zeros(query, dtype=torch.long),
        logits.log_softmax(-1), extra={"held_out_family": held_out},
    )  # fmt: skip


CELLS = [cell(task, seed, held_out) for seed in (0, 1) for task, held_out in zip("abcd", (1, 0, 0, 1), strict=True)]


def by_hand(score, high, low):
    pairs = list(itertools.product(score(high).tolist(), score(low).tolist()))
    return sum(1.0 if x > y else 0.5 if x == y else 0.0 for x, y in pairs) / len(pairs)


@pytest.mark.parametrize("score", [mutual_information, doubt])
def test_every_pair_of_tasks_weighs_the_same(score):
    values = ood_aurocs(CELLS, score)
    assert values.shape == (2, 2)
    for row, task in enumerate("ad"):
        for seed in (0, 1):
            own = {c.task: c for c in CELLS if c.seed == seed}
            expected = np.mean([by_hand(score, own[task], own[known]) for known in "bc"])
            assert values[row, seed] == pytest.approx(expected, abs=1e-12)
    interval = ood_interval(CELLS, score)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low <= interval.mean <= interval.high


def test_scores_against_their_formulas():
    probs = CELLS[0].log_probs.double().exp()
    mean = probs.mean(0)
    entropy = lambda p: -(p * p.log()).sum(-1)  # noqa: E731
    torch.testing.assert_close(mutual_information(CELLS[0]), entropy(mean) - entropy(probs).mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(doubt(CELLS[0]), 1 - mean.amax(1), rtol=0, atol=1e-6)
    assert set(SCORES) == {"ood_auroc_mutual_information", "ood_auroc_max_probability"}


def test_one_sample_says_nothing_and_perfect_separation_is_1():
    single = [cell(task, 0, held_out, samples=1) for task, held_out in (("a", True), ("b", False))]
    assert ood_interval(single, mutual_information).mean == 0.5
    sure = torch.tensor([[[0.9, 0.1], [0.8, 0.2]]]).log()
    unsure = torch.tensor([[[0.6, 0.4], [0.7, 0.3]]]).log()
    pair = [
        Cell("m", 0, name, "f", 4, ["x", "y"], torch.tensor([0, 1]), logs, extra={"held_out_family": held_out})
        for name, logs, held_out in (("new", unsure, True), ("old", sure, False))
    ]
    assert ood_interval(pair, doubt).mean == 1.0


def test_without_both_kinds_of_task_there_is_none():
    assert math.isnan(ood_interval([c for c in CELLS if c.task in "ad"], doubt).mean)
    assert math.isnan(ood_interval([c for c in CELLS if c.task in "bc"], doubt).mean)


def test_separability_counts_pairs_with_ties():
    high, low = torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([2.0, 0.0, 3.0])
    wins = sum((x > y) + 0.5 * (x == y) for x in high.tolist() for y in low.tolist())
    assert calibration.separability(high, low).item() == pytest.approx(wins / 12, abs=1e-15)
    assert math.isnan(calibration.separability(high, low[:0]).item())
    assert math.isnan(calibration.separability(high[:0], low).item())
