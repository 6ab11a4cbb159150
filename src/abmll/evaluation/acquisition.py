"""Which unlabelled rows to label next: how much in doubt a prediction is."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.evaluation.calibration import margin, mixture, mutual_information

Score = Literal["margin", "mutual-information"]
"""The two most probable answers closest to each other; or the posterior's samples most at odds, for methods whose
samples differ."""


def doubt(log_probs: Tensor, by: Score) -> Tensor:
    """How much in doubt the answer to each row is, in no unit: higher is more. log_probs: (samples, rows, choices)."""
    return mutual_information(log_probs) if by == "mutual-information" else -margin(mixture(log_probs).exp())


def least_sure(log_probs: Tensor, count: int, by: Score) -> list[int]:
    """The `count` rows most in doubt, first; of equal ones, that which comes first.

    Raises:
        AbmllError: For mutual information where all samples agree: such a posterior cannot rank anything by it.
    """
    scores = doubt(log_probs, by).tolist()
    if by == "mutual-information" and not max(scores, default=0.0) > 0:
        raise AbmllError(
            "the posterior gives one prediction, not several that differ: mutual information is 0 for every row. Use "
            "the margin (--by margin)."
        )
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count]
