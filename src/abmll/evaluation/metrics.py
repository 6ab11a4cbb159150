"""The metrics of one cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from abmll.evaluation import calibration
from abmll.evaluation.predictions import Cell


class Metric(NamedTuple):
    """How a metric is shown and read. `better` is None where neither direction is."""

    label: str
    better: Literal["higher", "lower"] | None
    definition: str

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", None: ""}[self.better]


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("Accuracy", "higher", "Fraction of query examples whose most probable choice is right."),
    "nll": Metric(
        "NLL",
        "lower",
        "Mean negative log-likelihood of the right choice in nats, after averaging the probabilities of all "
        "posterior samples. Confident errors cost most.",
    ),
    "ece": Metric(
        "ECE",
        "lower",
        "Expected calibration error: gap between confidence and accuracy, averaged over 15 equal-width bins of "
        "confidence by their number of examples. Small query sets bias it upward.",
    ),
    "brier": Metric(
        "Brier",
        "lower",
        "Squared distance between the predicted probabilities and the right answer, summed over choices (0 to 2).",
    ),
    "macro_f1": Metric("Macro F1", "higher", "F1 score of each choice position, averaged over positions that occur."),
    "mce": Metric("MCE", "lower", "Largest gap between confidence and accuracy among the bins of the ECE."),
    "adaptive_ece": Metric(
        "Adaptive ECE",
        "lower",
        "As ECE, over 15 bins that hold equally many examples each instead of equal widths.",
    ),
    "ece_per_example": Metric(
        "|conf. - correct|",
        "lower",
        "Mean |confidence - correct| per example: what the ABMLL paper's code reports as “ECE”. It rewards being "
        "right and certain and is not zero for a calibrated model.",
    ),
    "auroc": Metric(
        "AUROC",
        "higher",
        "Probability that a right prediction is more confident than a wrong one (0.5: confidence says nothing). "
        "Undefined, and left out, where all predictions are right or all are wrong.",
    ),
    "aurc": Metric(
        "AURC",
        "lower",
        "Area under the risk-coverage curve: error rate averaged over answering the k surest, all k.",
    ),
    "confidence": Metric("Confidence", None, "Mean probability of the predicted choice."),
    "entropy": Metric("Entropy", None, "Mean entropy of the averaged prediction, in nats."),
    "mutual_information": Metric(
        "Mutual information",
        None,
        "Entropy of the averaged prediction minus the average entropy of the posterior samples' predictions, in "
        "nats: their disagreement.",
    ),
}
"""Every metric of a cell, by name."""

HEADLINE = ("accuracy", "nll", "ece", "brier")
"""The metrics of the main table."""


def cell_metrics(cell: Cell) -> dict[str, float]:
    """All of `METRICS` for one cell. AUROC is NaN where undefined."""
    # Float32 rounding leaves sums of 1 ± 1e-6, which averaging probabilities would carry on.
    return calibration.all_metrics(cell.log_probs.double().log_softmax(-1), cell.targets)
