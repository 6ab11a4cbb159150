"""The summary: that numbers go where they belong, pairs are pairs, and gaps are told."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.evaluation import calibration
from abmll.evaluation.levels import levels_of
from abmll.evaluation.metrics import HEADLINE, METRICS, cell_metrics
from abmll.evaluation.predictions import Cell
from abmll.evaluation.summary import summarise


def make_cell(method="abmll", seed=0, task="t0", support_size=16, accuracy=0.7, num_query=20, prefix="q") -> Cell:
    """A cell of confidence 0.8 on two choices with exactly this accuracy."""
    wrong = torch.arange(num_query) >= round(accuracy * num_query)
    log_probs = torch.tensor([0.8, 0.2]).log().expand(num_query, 2)
    log_probs = torch.where(wrong[:, None], log_probs.flip(-1), log_probs)[None]
    targets = torch.zeros(num_query, dtype=torch.long)
    ids = [f"{prefix}{i}" for i in range(num_query)]
    return Cell(method, seed, task, "family", support_size, ids, targets, log_probs, seconds=1.0)


ACCURACY = {
    ("abmll", "t0"): [0.9, 0.8, 0.85], ("abmll", "t1"): [0.7, 0.75, 0.7], ("abmll", "t2"): [0.6, 0.65, 0.6],
    ("lora", "t0"): [0.7, 0.6, 0.65], ("lora", "t1"): [0.5, 0.6, 0.55], ("lora", "t2"): [0.5, 0.45, 0.5],
    ("reptile", "t0"): [0.9, 0.75, 0.9], ("reptile", "t1"): [0.7, 0.7, 0.75], ("reptile", "t2"): [0.65, 0.6, 0.6],
}  # fmt: skip


def grid(support_size=16, **changes):
    return [
        make_cell(method, seed, task, support_size, accuracy, **changes)
        for (method, task), values in ACCURACY.items()
        for seed, accuracy in enumerate(values)
    ]


def whole(summary):
    """All that a summary holds, NaN included."""
    return repr(vars(summary))


class TestCellMetrics:
    def test_has_every_metric_from_its_formula(self):
        generator = torch.Generator().manual_seed(0)
        log_probs = torch.randn(4, 30, 3, generator=generator).log_softmax(-1)
        targets = torch.randint(3, (30,), generator=generator)
        cell = Cell("m", 0, "t", "f", 4, [str(i) for i in range(30)], targets, log_probs)
        values = cell_metrics(cell)
        assert values.keys() == METRICS.keys()
        probs = log_probs.double().exp().mean(0)
        probs = probs / probs.sum(-1, keepdim=True)
        chosen = probs[torch.arange(30), targets]
        assert values["nll"] == pytest.approx(-chosen.log().mean().item(), abs=1e-6)
        assert values["confidence"] == pytest.approx(probs.amax(-1).mean().item(), abs=1e-6)
        assert values["accuracy"] == calibration.accuracy(probs, targets).item()
        assert values["ece"] == pytest.approx(calibration.ece(probs, targets).item(), abs=1e-6)
        assert values["mutual_information"] == pytest.approx(
            calibration.mutual_information(log_probs).mean().item(), abs=1e-6
        )

    def test_helper_has_the_accuracy_it_says(self):
        assert cell_metrics(make_cell(accuracy=0.35))["accuracy"] == pytest.approx(0.35)
        assert cell_metrics(make_cell(accuracy=0.8))["ece"] == pytest.approx(0, abs=1e-6)


class TestSummary:
    @pytest.fixture(scope="class")
    def summary(self):
        return summarise(grid())

    def test_shape(self, summary):
        assert summary.methods == ("abmll", "lora", "reptile")
        assert (summary.tasks, summary.seeds, summary.support_sizes) == (("t0", "t1", "t2"), (0, 1, 2), (16,))
        assert [(r.method, r.num_tasks, r.num_seeds, r.num_cells) for r in summary.standings] == [
            ("abmll", 3, 3, 9), ("lora", 3, 3, 9), ("reptile", 3, 3, 9),
        ]  # fmt: skip
        assert len(summary.notes) == 1
        assert "There are 3 tasks: too few to tell methods apart" in summary.notes[0]
        assert summary.standing("lora", 16).method == "lora"
        assert summary.standing("lora", 4) is None

    def test_means_and_paired_differences(self, summary):
        def mean(method):
            return np.mean([v for (m, _), values in ACCURACY.items() for v in values if m == method])

        for row in summary.standings:
            assert row.estimates["accuracy"].mean == pytest.approx(mean(row.method))
            if row.method != "abmll":
                difference = row.differences["accuracy"]
                assert difference.interval.mean == pytest.approx(mean(row.method) - mean("abmll"))
                assert difference.num_pairs == 9
        assert summary.standing("abmll", 16).differences == {}

    def test_a_paired_interval_is_narrower_than_the_spread_of_tasks(self, summary):
        lora = summary.standing("lora", 16)
        assert lora.differences["accuracy"].interval.half_width < lora.estimates["accuracy"].half_width / 1.5

    def test_interval_of_a_difference_is_the_bootstrap_of_differences(self, summary):
        arrays = {m: np.array([ACCURACY[m, t] for t in ("t0", "t1", "t2")]) for m in ("abmll", "lora")}
        difference = arrays["lora"] - arrays["abmll"]
        generator = np.random.default_rng(1)
        means = [
            difference[np.ix_(generator.integers(0, 3, 3), generator.integers(0, 3, 3))].mean() for _ in range(4000)
        ]
        interval = summary.standing("lora", 16).differences["accuracy"].interval
        assert interval.low == pytest.approx(np.quantile(means, 0.025), abs=0.01)
        assert interval.high == pytest.approx(np.quantile(means, 0.975), abs=0.01)

    def test_p_values_are_permutation_tests_on_task_means_corrected_by_holm(self, summary):
        raw = {}
        for method in ("lora", "reptile"):
            means = [
                np.mean(np.subtract(ACCURACY[method, t], ACCURACY["abmll", t])).round(12) for t in ("t0", "t1", "t2")
            ]
            kept = [d for d in means if d != 0]
            sizes = sorted(abs(d) for d in kept)
            ranks = [np.mean([i + 1 for i, s in enumerate(sizes) if s == abs(d)]) for d in kept]
            w = min(sum(r for r, d in zip(ranks, kept, strict=True) if (d > 0) == up) for up in (True, False))
            sums = [sum(itertools.compress(ranks, s)) for s in itertools.product([0, 1], repeat=len(ranks))]
            raw[method] = min(1, 2 * np.mean([s <= w for s in sums]))
        assert raw["lora"] == 0.25  # the smallest p that three tasks can give
        assert summary.standing("lora", 16).differences["accuracy"].p_value == pytest.approx(0.5)
        assert summary.standing("reptile", 16).differences["accuracy"].p_value == pytest.approx(
            max(0.5, raw["reptile"])
        )

    def test_mean_ranks(self, summary):
        """Over tasks, seeds averaged first."""
        ranks: dict[str, list[float]] = {m: [] for m in ("abmll", "lora", "reptile")}
        for task in ("t0", "t1", "t2"):
            scores = {m: np.mean(ACCURACY[m, task]).round(12) for m in ranks}
            for m, score in scores.items():
                better = sum(s > score for s in scores.values())
                equal = sum(s == score for s in scores.values())
                ranks[m].append(better + (equal + 1) / 2)
        for row in summary.standings:
            assert row.ranks["accuracy"] == pytest.approx(np.mean(ranks[row.method]))
        assert sum(r.ranks["nll"] for r in summary.standings) == pytest.approx(6)

    def test_is_deterministic(self, summary):
        assert whole(summarise(grid())) == whole(summary)

    def test_three_tasks_are_too_few_for_a_winner(self):
        two = summarise([c for c in grid() if c.method != "reptile"])
        assert two.standing("lora", 16).differences["nll"].interval.low > 0
        assert not two.standing("lora", 16).differences["nll"].clear
        assert two.winners == {}

    def test_a_winner_is_clear_of_every_other_by_the_test_that_the_p_values_show(self):
        """One rule: what is bold has corrected p-values of at most 0.05 against all others."""
        rng = np.random.default_rng(0)
        cells = []
        for task in range(12):
            level = rng.uniform(0.5, 0.7)
            for method, gain in (("abmll", 0.2), ("lora", 0.0), ("reptile", 0.05 if task < 8 else -0.05)):
                cells.append(make_cell(method, 0, f"t{task}", accuracy=level + gain))
        summary = summarise(cells)
        assert summary.winners[16, "accuracy"] == "abmll"
        assert all(summary.standing(m, 16).differences["accuracy"].p_value <= 0.05 for m in ("lora", "reptile"))
        without = summarise([c for c in cells if c.method != "abmll"], baseline="lora")
        assert without.standing("reptile", 16).differences["accuracy"].p_value > 0.05
        assert (16, "accuracy") not in without.winners

    def test_metrics_without_a_better_end_have_no_winner_and_no_rank(self):
        summary = summarise(grid(), metrics=("entropy",))
        assert summary.winners == {}
        assert summary.standings[0].ranks == {}

    def test_support_sizes_are_separate(self):
        summary = summarise([*grid(64), *grid(4)])
        assert summary.support_sizes == (4, 64)
        assert [r.support_size for r in summary.standings] == [4, 4, 4, 64, 64, 64]
        assert summary.standing("lora", 4).estimates == summary.standing("lora", 64).estimates


def test_a_summary_of_some_metrics_is_that_part_of_the_summary_of_all():
    cells = [c for c in grid() if (c.method, c.task) != ("lora", "t2")]
    every = ("entropy", "brier", "accuracy", "auroc", "nll", "ece")
    for chosen in (HEADLINE, ("entropy",), ()):
        assert whole(summarise(cells, metrics=every).only(chosen)) == whole(summarise(cells, metrics=chosen))


class TestLevels:
    def cell(self, targets, widths, method="abmll", task="t0"):
        log_probs = torch.full((1, len(targets), max(widths)), -math.inf)
        for row, width in enumerate(widths):
            log_probs[0, row, :width] = torch.arange(1.0, width + 1).log_softmax(-1)
        ids = [str(i) for i in range(len(targets))]
        return Cell(method, 0, task, "f", 16, ids, torch.tensor(targets), log_probs)

    def test_chance_majority_and_uniform_from_their_definitions(self):
        levels = levels_of(self.cell([0, 1, 1, 0, 0], [2, 2, 4, 3, 2]))
        assert levels.chance == pytest.approx((3 / 2 + 1 / 4 + 1 / 3) / 5)
        assert levels.majority == pytest.approx(3 / 5)
        assert levels.uniform_nll == pytest.approx((3 * math.log(2) + math.log(4) + math.log(3)) / 5)

    def test_levels_are_averaged_over_cells_as_rows_are(self):
        cells = [self.cell([0, 0], [2, 2]), self.cell([0, 1], [4, 4], task="t1")]
        summary = summarise(cells)
        assert summary.mean_levels(16).chance == pytest.approx(3 / 8)
        assert summary.mean_levels(16, "t1").majority == pytest.approx(0.5)

    def test_a_row_beats_uniform_only_if_clearly(self):
        """Confidence 0.8 has a lower NLL than a coin's only where accuracy is above 0.66."""

        def beats(accuracies):
            cells = [make_cell(task=f"t{i}", accuracy=a) for i, a in enumerate(accuracies)]
            return summarise(cells).standings[0].beats_uniform

        assert beats([0.9] * 8)
        assert not beats([0.5] * 8)
        assert not beats([0.9] * 5 + [0.5] * 3), "better on the mean, but one cannot tell"
        assert beats([0.9, 0.9]), "two tasks can tell nothing: the mean decides"

    def test_uniform_is_not_clearly_below_itself(self):
        cells = [make_cell("lora", task=f"t{i}") for i in range(8)]
        flat = [replace(c, method="uniform", log_probs=torch.full_like(c.log_probs, math.log(0.5))) for c in cells]
        summary = summarise([*cells, *flat], baseline="lora")
        row = summary.standing("uniform", 16)
        assert row.against_uniform.interval.mean == pytest.approx(0, abs=1e-7)
        assert row.estimates["nll"].mean == pytest.approx(summary.mean_levels(16).uniform_nll)

    def test_references_stand_last_and_the_baseline_first(self):
        names = ("pretrained", "uniform", "lora", "abmll", "label-frequency")
        summary = summarise([make_cell(name, task=f"t{i}") for name in names for i in range(2)])
        assert summary.methods == ("abmll", "lora", "uniform", "label-frequency", "pretrained")


class TestUnequalSets:
    def test_missing_cells_are_told_and_comparisons_use_shared_cells(self):
        cells = [c for c in grid() if (c.method, c.task) != ("lora", "t2")]
        summary = summarise(cells)
        assert any("lora lacks 3 of 9 (task, seed) cells with 16 support examples" in note for note in summary.notes)
        difference = summary.standing("lora", 16).differences["accuracy"]
        assert difference.num_pairs == 6
        shared = [np.mean(np.subtract(ACCURACY["lora", t], ACCURACY["abmll", t])) for t in ("t0", "t1")]
        assert difference.interval.mean == pytest.approx(np.mean(shared))
        assert summary.standing("lora", 16).num_cells == 6

    def test_a_lacking_seed_is_left_out_of_the_ranks_of_all(self):
        """Otherwise lora, without the seed that is hard for everybody, would be ranked first."""
        accuracy = {("abmll", 0): 0.9, ("abmll", 1): 0.3, ("lora", 0): 0.8}
        cells = [make_cell(m, s, t, accuracy=a) for (m, s), a in accuracy.items() for t in ("t0", "t1")]
        summary = summarise(cells)
        assert [row.ranks["accuracy"] for row in summary.standings] == [1.0, 2.0]

    def test_missing_baseline_cells_are_told_too(self):
        summary = summarise([c for c in grid() if (c.method, c.seed, c.task) != ("abmll", 0, "t1")])
        assert any("abmll lacks 1 of 9" in note for note in summary.notes)
        assert summary.standing("lora", 16).differences["accuracy"].num_pairs == 8

    def test_other_query_examples_are_not_paired(self):
        other = [c for c in grid(prefix="x") if c.method == "lora"]
        summary = summarise([*(c for c in grid() if c.method != "lora"), *other])
        assert any("evaluated on different query examples in 9 (task, seed) cells" in note for note in summary.notes)
        difference = summary.standing("lora", 16).differences["accuracy"]
        assert difference.num_pairs == 0
        assert math.isnan(difference.interval.mean)
        assert math.isnan(difference.p_value)
        assert (16, "accuracy") not in summary.winners

    def test_undefined_values_leave_pairs_out(self):
        """AUROC is undefined where all predictions are right."""
        accuracies = {("abmll", 0): 1.0, ("abmll", 1): 0.7, ("lora", 0): 0.5, ("lora", 1): 0.5}
        cells = [make_cell(method, seed, accuracy=a) for (method, seed), a in accuracies.items()]
        summary = summarise(cells, metrics=("auroc",))
        assert summary.standing("lora", 16).differences["auroc"].num_pairs == 1
        assert summary.standing("abmll", 16).estimates["auroc"].mean == 0.5

    def test_method_absent_at_one_support_size(self):
        summary = summarise([*grid(4), *(c for c in grid(16) if c.method != "lora")])
        assert "lora was not evaluated with 16 support examples." in summary.notes
        assert summary.standing("lora", 16) is None

    def test_what_holds_at_several_support_sizes_is_told_once(self):
        cells = [c for size in (4, 16, 64) for c in grid(size) if (c.method, c.task) != ("lora", "t2")]
        notes = summarise(cells).notes
        assert len(notes) == 2
        assert "lora lacks 3 of 9 (task, seed) cells with 4, 16 and 64 support examples" in notes[1]

    def test_absent_baseline_one_seed_and_one_task_are_told(self):
        summary = summarise([make_cell("lora"), make_cell("reptile", accuracy=0.5)], "abmll")
        assert len(summary.notes) == 2
        assert "no predictions of abmll" in summary.notes[0]
        assert summary.notes[1] == "There is one task and one seed: there are no intervals."
        assert summary.standings[0].differences == {}
        one_seed = summarise([make_cell(task=f"t{i}") for i in range(2)])
        assert [note.partition(":")[0] for note in one_seed.notes] == ["There is one seed"]
        one_task = summarise([make_cell(seed=seed) for seed in range(2)])
        assert [note.partition(":")[0] for note in one_task.notes] == ["There is one task"]

    def test_where_nobody_says_the_baseline_is_abmll_or_a_form_of_it_else_the_first_that_is_no_reference(self):
        assert summarise(grid()).baseline == "abmll"
        cells = [make_cell(name, task=f"t{i}") for name in ("uniform", "reptile", "lora") for i in range(2)]
        summary = summarise(cells)
        assert summary.baseline == summary.methods[0] == "reptile"
        assert summary.standing("lora", 16).differences
        assert summarise([*cells, make_cell("abmll-natural")]).baseline == "abmll-natural"
        assert summarise([make_cell("pretrained")]).baseline == "pretrained"


class TestErrors:
    def test_unknown_metric_names_the_nearest(self):
        with pytest.raises(AbmllError, match=r"unknown metric 'acuracy'. Did you mean 'accuracy'"):
            summarise(grid(), metrics=("acuracy",))

    def test_no_cells(self):
        with pytest.raises(AbmllError, match="no cells to summarise"):
            summarise([])


def test_headline_metrics_exist_and_all_are_documented():
    assert set(HEADLINE) <= METRICS.keys()
    assert all(metric.definition.endswith(".") for metric in METRICS.values())
