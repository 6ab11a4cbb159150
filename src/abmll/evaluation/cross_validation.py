"""Does adapting to these rows help? Asked of the rows themselves, each answered without having been seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from abmll.core.types import Adaptation, Example, Likelihood, Posterior
from abmll.data.episodes import balanced_order
from abmll.evaluation import calibration
from abmll.methods.parts.gradient import NoAdaptation

FOLDS = 4
"""Parts that the rows are divided into; each is answered after adapting to the others."""


class Help(NamedTuple):
    """NLL in nats a row: after adapting to the other rows, without adapting, and of the uniform distribution."""

    adapted: float
    zero_shot: float
    uniform: float
    num_rows: int

    @property
    def helps(self) -> bool:
        """Whether adapting is better than not adapting and than knowing nothing."""
        return self.adapted < min(self.zero_shot, self.uniform)

    def __str__(self) -> str:
        return (
            f"cross-validated NLL {self.adapted:.3f}; zero-shot {self.zero_shot:.3f}, uniform {self.uniform:.3f} "
            f"({self.num_rows} rows)"
        )


def cross_validated(
    likelihood: Likelihood, adaptation: Adaptation, rows: Sequence[Example], *, num_samples: int = 16
) -> Help | None:
    """What adapting is worth on these rows; None for fewer rows than two a fold.

    Args:
        likelihood: With the adapter that is adapted from.
        adaptation: What is evaluated.
        rows: Labelled. Folds are as even over the labels as they can be.
        num_samples: Of the posterior.
    """
    if len(rows) < 2 * FOLDS:
        return None
    order = balanced_order(rows)
    total = 0.0
    # Every run of neighbours in this order is as balanced as can be.
    ends = [len(rows) * fold // FOLDS for fold in range(FOLDS + 1)]
    for begin, end in pairwise(ends):
        held_out = [rows[position] for position in order[begin:end]]
        support = [rows[position] for position in [*order[:begin], *order[end:]]]
        total += len(held_out) * _nll(adaptation.adapt(likelihood, support), held_out, num_samples)
    zero_shot = _nll(NoAdaptation().adapt(likelihood, ()), rows, 0)
    uniform = sum(math.log(len(row.choices)) for row in rows) / len(rows)
    return Help(total / len(rows), zero_shot, uniform, len(rows))


def _nll(posterior: Posterior, rows: Sequence[Example], num_samples: int) -> float:
    log_probs = posterior.predict(rows, num_samples).double().log_softmax(-1)
    return float(calibration.nll(log_probs, torch.tensor([row.target for row in rows], device=log_probs.device)))
