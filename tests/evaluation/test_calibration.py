"""Calibration metrics against brute force over Python lists, torchmetrics, and what must hold for any input."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.evaluation import calibration

NINF = -math.inf


def random_case(seed: int, num_samples: int = 3, num_examples: int = 60, num_choices: int = 4, ties: bool = False):
    """Log-probabilities (samples, examples, choices), their mixture's probabilities, and targets that follow them."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_samples, num_examples, num_choices, generator=generator, dtype=torch.float64)
    if ties:
        logits = logits.round()
    log_probs = logits.log_softmax(-1)
    probs = log_probs.exp().mean(0)
    targets = torch.multinomial(probs, 1, generator=generator)[:, 0]
    return log_probs, probs, targets


def confidences(values: list[float], correct: list[bool], num_choices: int = 2) -> tuple[Tensor, Tensor]:
    """Probabilities whose first choice has these confidences; the target is that choice where correct."""
    first = torch.tensor(values, dtype=torch.float64)
    rest = ((1 - first) / (num_choices - 1))[:, None].expand(-1, num_choices - 1)
    return torch.cat([first[:, None], rest], 1), torch.tensor([0 if c else 1 for c in correct])


def predicted(row: list[float]) -> tuple[int, float]:
    best = max(row)
    return row.index(best), best


class TestAgainstBruteForce:
    """Every number once more, with loops over floats and no tensors."""

    @pytest.fixture(params=[(0, False), (1, False), (2, True)], ids=["random", "random2", "ties"])
    def case(self, request):
        seed, ties = request.param
        return random_case(seed, ties=ties, num_samples=1 if ties else 3)

    def test_accuracy_and_per_example_error(self, case):
        _, probs, targets = case
        hits = [predicted(p)[0] == y for p, y in zip(probs.tolist(), targets.tolist(), strict=True)]
        gaps = [abs(max(p) - hit) for p, hit in zip(probs.tolist(), hits, strict=True)]
        assert calibration.accuracy(probs, targets).item() == pytest.approx(sum(hits) / len(hits), abs=1e-12)
        assert calibration.ece_per_example(probs, targets).item() == pytest.approx(sum(gaps) / len(gaps), abs=1e-12)

    def test_nll_is_that_of_the_mean_of_probabilities(self, case):
        log_probs, _, targets = case
        total = 0.0
        for n, y in enumerate(targets.tolist()):
            total -= math.log(sum(math.exp(sample[n][y]) for sample in log_probs.tolist()) / len(log_probs))
        assert calibration.nll(log_probs, targets).item() == pytest.approx(total / len(targets), rel=1e-12)

    def test_brier(self, case):
        _, probs, targets = case
        total = sum(
            (p - (c == y)) ** 2
            for row, y in zip(probs.tolist(), targets.tolist(), strict=True)
            for c, p in enumerate(row)
        )
        assert calibration.brier(probs, targets).item() == pytest.approx(total / len(targets), rel=1e-12)

    @pytest.mark.parametrize("num_bins", [1, 2, 7, 15])
    @pytest.mark.parametrize("bin_edges", ["right", "left"])
    def test_binned_errors(self, case, num_bins, bin_edges):
        _, probs, targets = case
        gaps = []
        for b in range(num_bins):
            members = []
            for row, y in zip(probs.tolist(), targets.tolist(), strict=True):
                choice, c = predicted(row)
                low, high = Fraction(b, num_bins), Fraction(b + 1, num_bins)
                inside = low < c <= high if bin_edges == "right" else low <= c < high or (c == 1 and high == 1)
                if inside:
                    members.append((c, choice == y))
            if members:
                gap = abs(sum(c for c, _ in members) - sum(hit for _, hit in members)) / len(members)
                gaps.append((len(members), gap))
        assert sum(n for n, _ in gaps) == len(targets)
        expected = sum(n * gap for n, gap in gaps) / len(targets)
        arguments = probs, targets, num_bins, bin_edges
        assert calibration.ece(*arguments).item() == pytest.approx(expected, abs=1e-12)
        assert calibration.max_calibration_error(*arguments).item() == pytest.approx(max(g for _, g in gaps), abs=1e-12)

    @pytest.mark.parametrize("num_bins", [1, 7, 15, 100])
    def test_adaptive_ece(self, case, num_bins):
        _, probs, targets = case
        rows = sorted(predicted(p)[::-1] for p in probs.tolist())
        hits = [
            (max(p), Fraction(int(predicted(p)[0] == y))) for p, y in zip(probs.tolist(), targets.tolist(), strict=True)
        ]
        shared = []
        for confidence, _ in rows:
            same = [hit for c, hit in hits if c == confidence]
            shared.append((confidence, float(sum(same) / len(same))))
        num_bins = min(num_bins, len(shared))
        size, more = divmod(len(shared), num_bins)
        total, start = 0.0, 0
        for b in range(num_bins):
            stop = start + size + (b < more)
            total += abs(sum(c - hit for c, hit in shared[start:stop]))
            start = stop
        assert calibration.adaptive_ece(probs, targets, num_bins).item() == pytest.approx(
            total / len(shared), abs=1e-12
        )

    def test_auroc_counts_pairs(self, case):
        _, probs, targets = case
        scored = [(max(p), predicted(p)[0] == y) for p, y in zip(probs.tolist(), targets.tolist(), strict=True)]
        right, wrong = [c for c, hit in scored if hit], [c for c, hit in scored if not hit]
        wins = sum((r > w) + (r == w) / 2 for r in right for w in wrong)
        assert calibration.auroc(probs, targets).item() == pytest.approx(wins / len(right) / len(wrong), abs=1e-12)

    def test_risk_coverage_is_the_mean_over_orders_of_ties(self):
        probs, targets = confidences([0.9, 0.7, 0.7, 0.7, 0.6], [True, True, False, False, True])
        orders = [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]  # the three places of the one hit among the ties
        expected = []
        for k in range(1, 6):
            risks = [(k - sum([*order, 1][:k])) / k for order in orders]
            expected.append(sum(risks) / len(risks))
        curve = calibration.risk_coverage(probs, targets)
        assert curve.risk.tolist() == pytest.approx(expected)
        assert curve.coverage.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert curve.area.item() == pytest.approx(sum(expected) / 5)

    def test_macro_f1(self, case):
        _, probs, targets = case
        guesses = [predicted(p)[0] for p in probs.tolist()]
        scores = []
        for c in range(4):
            pairs = list(zip(guesses, targets.tolist(), strict=True))
            both = sum(g == c and y == c for g, y in pairs)
            either = sum(g == c for g, _ in pairs) + sum(y == c for _, y in pairs)
            if either:
                scores.append(2 * both / either)
        assert calibration.macro_f1(probs, targets).item() == pytest.approx(sum(scores) / len(scores), abs=1e-12)

    def test_entropy_and_mutual_information(self, case):
        log_probs, probs, _ = case

        def plain_entropy(row):
            return -sum(p * math.log(p) for p in row if p > 0)

        assert calibration.entropy(probs).tolist() == pytest.approx([plain_entropy(p) for p in probs.tolist()])
        for n, information in enumerate(calibration.mutual_information(log_probs).tolist()):
            each = [plain_entropy([math.exp(x) for x in sample[n]]) for sample in log_probs.tolist()]
            assert information == pytest.approx(plain_entropy(probs[n].tolist()) - sum(each) / len(each), abs=1e-12)


@pytest.mark.parametrize("shape", [(3, 60, 4), (1, 40, 2), (8, 1, 3), (2, 7, 3)])
@pytest.mark.parametrize("ties", [False, True])
def test_all_at_once_are_what_each_function_gives(shape, ties):
    log_probs, _, targets = random_case(9, *shape, ties)
    log_probs = torch.nn.functional.pad(log_probs, (0, 1), value=NINF)
    probs = calibration.mixture(log_probs).exp()
    of_probs = {
        "accuracy": calibration.accuracy, "ece": calibration.ece, "brier": calibration.brier,
        "macro_f1": calibration.macro_f1, "mce": calibration.max_calibration_error,
        "adaptive_ece": calibration.adaptive_ece, "ece_per_example": calibration.ece_per_example,
        "auroc": calibration.auroc, "aurc": lambda p, y: calibration.risk_coverage(p, y).area,
    }  # fmt: skip
    expected = {name: metric(probs, targets).item() for name, metric in of_probs.items()} | {
        "nll": calibration.nll(log_probs, targets).item(),
        "confidence": probs.amax(1).mean().item(),
        "entropy": calibration.entropy(probs).mean().item(),
        "mutual_information": calibration.mutual_information(log_probs).mean().item(),
    }
    assert calibration.all_metrics(log_probs, targets) == pytest.approx(expected, abs=1e-14, nan_ok=True)


class TestAgainstTorchmetrics:
    @pytest.mark.parametrize("norm", ["l1", "max"])
    def test_ece(self, norm):
        classification = pytest.importorskip("torchmetrics.functional.classification")
        _, probs, targets = random_case(5, num_examples=2000)
        theirs = classification.multiclass_calibration_error(probs, targets, num_classes=4, n_bins=15, norm=norm)
        ours = {"l1": calibration.ece, "max": calibration.max_calibration_error}[norm](probs, targets)
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)

    def test_accuracy_f1_and_auroc(self):
        classification = pytest.importorskip("torchmetrics.functional.classification")
        _, probs, targets = random_case(6, num_examples=2000)
        theirs = classification.multiclass_f1_score(probs, targets, num_classes=4, average="macro")
        assert calibration.macro_f1(probs, targets).item() == pytest.approx(theirs.item(), abs=1e-6)
        theirs = classification.multiclass_accuracy(probs, targets, num_classes=4, average="micro")
        assert calibration.accuracy(probs, targets).item() == pytest.approx(theirs.item(), abs=1e-6)
        correct = (probs.argmax(1) == targets).long()
        theirs = classification.binary_auroc(probs.amax(1), correct)
        assert calibration.auroc(probs, targets).item() == pytest.approx(theirs.item(), abs=1e-6)

    def test_paper_number_is_torchmetrics_ece_of_one_example_at_a_time(self):
        classification = pytest.importorskip("torchmetrics.functional.classification")
        _, probs, targets = random_case(7, num_examples=40)
        single = [
            classification.multiclass_calibration_error(p[None], y[None], num_classes=4, n_bins=10, norm="l1")
            for p, y in zip(probs, targets, strict=True)
        ]
        expected = torch.stack(single).mean().item()
        assert calibration.ece_per_example(probs, targets).item() == pytest.approx(expected, abs=1e-6)


class TestEdges:
    def test_saturated_confidence_shares_the_last_bin(self):
        """Both in (14/15, 1]: the gap is |0.975 - 0.95|. torchmetrics gives 1.0 a bin of its own and 0.075."""
        probs, targets = confidences([1.0] * 100 + [0.95] * 100, [True] * 90 + [False] * 10 + [True] * 100, 5)
        for bin_edges in ("right", "left"):
            assert calibration.ece(probs, targets, bin_edges=bin_edges).item() == pytest.approx(0.025)

    def test_confidence_on_an_edge_goes_where_the_convention_says(self):
        probs, targets = confidences([0.75, 0.6, 0.9], [True, True, False])
        right = calibration.reliability_curve(probs, targets, num_bins=4, bin_edges="right").num_examples
        left = calibration.reliability_curve(probs, targets, num_bins=4, bin_edges="left").num_examples
        assert right.tolist() == [0, 0, 2, 1]
        assert left.tolist() == [0, 0, 1, 2]

    def test_one_example(self):
        probs, targets = confidences([0.8], [True])
        assert calibration.ece(probs, targets).item() == pytest.approx(0.2)
        assert calibration.adaptive_ece(probs, targets).item() == pytest.approx(0.2)
        assert calibration.risk_coverage(probs, targets).area.item() == 0
        assert math.isnan(calibration.auroc(probs, targets).item())

    def test_all_correct_and_certain_is_perfect(self):
        probs, targets = torch.eye(3, dtype=torch.float64), torch.arange(3)
        for metric in (calibration.ece, calibration.adaptive_ece, calibration.brier, calibration.ece_per_example):
            assert metric(probs, targets).item() == 0
        assert calibration.accuracy(probs, targets).item() == calibration.macro_f1(probs, targets).item() == 1
        assert calibration.nll(probs.log()[None], targets).item() == 0
        assert math.isnan(calibration.auroc(probs, targets).item())

    def test_all_wrong_and_certain_is_worst(self):
        probs, targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 0])
        assert calibration.brier(probs, targets).item() == 2
        assert calibration.ece(probs, targets).item() == calibration.max_calibration_error(probs, targets).item() == 1

    def test_constant_confidence_has_no_information(self):
        probs, targets = confidences([0.7] * 10, [True] * 7 + [False] * 3)
        assert calibration.auroc(probs, targets).item() == 0.5
        assert calibration.ece(probs, targets).item() == pytest.approx(0)
        assert calibration.ece_per_example(probs, targets).item() == pytest.approx(2 * 0.7 * 0.3)
        assert calibration.risk_coverage(probs, targets).risk.tolist() == pytest.approx([0.3] * 10)

    def test_first_choice_wins_a_tie(self):
        probs = torch.full((2, 2), 0.5)
        assert calibration.accuracy(probs, torch.tensor([0, 0])).item() == 1
        assert calibration.accuracy(probs, torch.tensor([1, 1])).item() == 0

    def test_absent_choices_change_nothing(self):
        """Padding with -inf columns leaves every number as it is."""
        log_probs, probs, targets = random_case(3)
        padded = torch.nn.functional.pad(log_probs, (0, 2), value=NINF)
        padded_probs = calibration.mixture(padded).exp()
        assert calibration.nll(padded, targets).item() == calibration.nll(log_probs, targets).item()
        torch.testing.assert_close(
            calibration.mutual_information(padded), calibration.mutual_information(log_probs), rtol=0, atol=1e-14
        )
        for metric in (
            calibration.accuracy, calibration.macro_f1, calibration.brier, calibration.ece, calibration.auroc,
            calibration.adaptive_ece, calibration.ece_per_example, calibration.max_calibration_error,
        ):  # fmt: skip
            assert metric(padded_probs, targets).item() == pytest.approx(metric(probs, targets).item(), abs=1e-12)

    def test_ragged_rows(self):
        log_probs = torch.tensor([[[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]]).log()
        assert calibration.mixture(log_probs)[0, 2] == NINF
        assert calibration.nll(log_probs, torch.tensor([1, 2])).item() == pytest.approx(math.log(2))
        assert calibration.mutual_information(log_probs).tolist() == [0, 0]

    def test_mutual_information_of_samples_that_disagree_fully(self):
        certain = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).log()
        assert calibration.mutual_information(certain).item() == pytest.approx(math.log(2))

    def test_float32_and_float64_inputs_agree(self):
        log_probs, probs, targets = random_case(8)
        assert calibration.brier(probs.float(), targets).item() == pytest.approx(
            calibration.brier(probs, targets).item(), abs=1e-6
        )
        assert calibration.nll(log_probs.float(), targets).dtype == torch.float64


class TestErrors:
    GOOD = torch.tensor([[0.5, 0.5], [0.1, 0.9]])
    TARGETS = torch.tensor([0, 1])

    @pytest.mark.parametrize(
        ("probs", "targets", "message"),
        [
            (torch.tensor([[0.5, 0.4], [0.1, 0.9]]), TARGETS, r"probs\[0\] sums to 0\.9 .*normalise"),
            (torch.tensor([[0.5, 0.5], [2.0, -1.0]]), TARGETS, r"probs\[1, 0\] is 2, outside \[0, 1\].*softmax"),
            (torch.tensor([[0.5, 0.5], [math.nan, 0.9]]), TARGETS, r"probs\[1, 0\] is NaN"),
            (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), r"shape \(0, 2\)"),
            (GOOD, torch.tensor([0, 2]), r"targets\[1\] is 2: it must be an index into the 2 choices"),
            (GOOD, torch.tensor([-1, 0]), r"targets\[0\] is -1"),
        ],
    )
    def test_bad_input_is_named(self, probs, targets, message):
        for metric in (calibration.accuracy, calibration.brier, calibration.ece, calibration.auroc):
            with pytest.raises(AbmllError, match=message):
                metric(probs, targets)

    @pytest.mark.parametrize(
        ("log_probs", "message"),
        [
            (torch.tensor([[[0.1, 2.0]]]), r"log_probs\[0, 0, 0\] is positive"),
            (torch.tensor([[[-0.1, -0.2]]]), r"log_probs\[0, 0\] sums to 1\.7"),
            (torch.tensor([[[math.nan, -0.2]]]), r"log_probs\[0, 0, 0\] is NaN"),
            (torch.tensor([[[NINF, NINF]]]), r"log_probs\[0, 0\] sums to 0"),
            (torch.zeros(0, 1, 2), r"shape \(0, 1, 2\)"),
        ],
    )
    def test_bad_log_probs_are_named(self, log_probs, message):
        for metric in (calibration.mixture, calibration.mutual_information):
            with pytest.raises(AbmllError, match=message):
                metric(log_probs)

    def test_target_on_an_absent_choice(self):
        log_probs = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]]).log()
        with pytest.raises(AbmllError, match=r"targets\[1\] names a choice .*example 1 lacks that choice"):
            calibration.nll(log_probs, self.TARGETS)
        with pytest.raises(AbmllError, match=r"targets\[1\] names a choice .*example 1 lacks that choice"):
            calibration.all_metrics(log_probs, self.TARGETS)

    def test_bad_bins(self):
        with pytest.raises(AbmllError, match="num_bins=0"):
            calibration.ece(self.GOOD, self.TARGETS, num_bins=0)
        with pytest.raises(AbmllError, match="num_bins=-1"):
            calibration.adaptive_ece(self.GOOD, self.TARGETS, num_bins=-1)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_samples=st.integers(1, 4),
    num_examples=st.integers(1, 25),
    num_choices=st.integers(1, 5),
    ties=st.booleans(),
)
def test_properties(seed, num_samples, num_examples, num_choices, ties):
    """Bounds, the order of rows, the order of samples, and inequalities between the numbers."""
    log_probs, _, targets = random_case(seed, num_samples, num_examples, num_choices, ties)
    probs = calibration.mixture(log_probs).exp()
    metrics = {
        "accuracy": (calibration.accuracy, 1.0),
        "macro_f1": (calibration.macro_f1, 1.0),
        "brier": (calibration.brier, 2.0),
        "ece": (calibration.ece, 1.0),
        "mce": (calibration.max_calibration_error, 1.0),
        "adaptive_ece": (calibration.adaptive_ece, 1.0),
        "ece_per_example": (calibration.ece_per_example, 1.0),
        "auroc": (calibration.auroc, 1.0),
        "aurc": (lambda p, y: calibration.risk_coverage(p, y).area, 1.0),
    }
    order = torch.randperm(num_examples, generator=torch.Generator().manual_seed(seed))
    values = {}
    for name, (metric, most) in metrics.items():
        values[name] = metric(probs, targets).item()
        assert math.isnan(values[name]) or -1e-12 <= values[name] <= most + 1e-12, name
        again = metric(probs[order], targets[order]).item()
        assert again == pytest.approx(values[name], abs=1e-12, nan_ok=True), name
    gap = abs(calibration.accuracy(probs, targets) - probs.amax(1).mean()).item()
    assert gap - 1e-12 <= values["ece"] <= min(values["mce"], values["ece_per_example"]) + 1e-12
    assert gap - 1e-12 <= values["adaptive_ece"] <= values["ece_per_example"] + 1e-12
    assert calibration.ece(probs, targets, num_bins=1).item() == pytest.approx(gap, abs=1e-12)

    each = [calibration.nll(sample[None], targets).item() for sample in log_probs]
    nll = calibration.nll(log_probs, targets).item()
    assert nll <= sum(each) / len(each) + 1e-12  # Jensen
    assert calibration.nll(log_probs.flip(0), targets).item() == pytest.approx(nll, abs=1e-12)
    information = calibration.mutual_information(log_probs)
    assert (information >= 0).all()
    assert (information <= math.log(num_samples) + 1e-12).all()
    assert (calibration.entropy(probs) <= math.log(num_choices) + 1e-12).all()
