"""Does the uncertainty tell tasks of a family that meta-training never saw from tasks of known families?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from abmll.evaluation import calibration
from abmll.evaluation.predictions import Cell
from abmll.evaluation.statistics import Interval, bootstrap_interval

Score = Callable[[Cell], Tensor]


def mutual_information(cell: Cell) -> Tensor:
    """(examples,) what the posterior samples disagree on, in nats: 0 for a single sample."""
    return calibration.mutual_information(_log_probs(cell))


def doubt(cell: Cell) -> Tensor:
    """(examples,) one minus the greatest probability of the averaged prediction."""
    return 1 - calibration.mixture(_log_probs(cell)).exp().amax(1)


SCORES: Mapping[str, tuple[str, Score]] = {
    "ood_auroc_mutual_information": ("OOD AUROC, MI", mutual_information),
    "ood_auroc_max_probability": ("OOD AUROC, max p", doubt),
}
"""Name -> label and score; each score is higher for what should be out of domain."""

DEFINITION = (
    "Out-of-domain AUROC: probability that a query of a task whose family meta-training never saw gets a higher score "
    "than a query of a test task whose family it knows, each predicted after adaptation to its own support set; ties "
    "count one half, every pair of tasks weighs the same. The score is the mutual information of prediction and "
    "posterior sample (0.5 for a method with one sample), or one minus the greatest probability. Tasks with more "
    "choices or harder questions score higher for that reason too."
)


def ood_aurocs(cells: Sequence[Cell], score: Score) -> np.ndarray:
    """(held-out tasks, seeds): the AUROC of each held-out task's queries against those of every known task, averaged
    over the known tasks of the same seed; NaN where there is none.

    Args:
        cells: of one method and one support size. A task is held out if its cell says `held_out_family`.
    """
    seeds = sorted({cell.seed for cell in cells})
    held_out = list(dict.fromkeys(cell.task for cell in cells if cell.extra.get("held_out_family")))
    values = np.full((len(held_out), len(seeds)), np.nan)
    for column, seed in enumerate(seeds):
        own = [cell for cell in cells if cell.seed == seed]
        known = [score(cell) for cell in own if not cell.extra.get("held_out_family")]
        for cell in own:
            if cell.extra.get("held_out_family") and known:
                scores = score(cell)
                pairs = [float(calibration.separability(scores, other)) for other in known]
                values[held_out.index(cell.task), column] = np.mean(pairs)
    return values


def ood_intervals(cells: Sequence[Cell]) -> dict[tuple[str, int], dict[str, Interval]]:
    """(method, support size) -> name of a score in `SCORES` -> `ood_interval`."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.method, cell.support_size), []).append(cell)
    return {key: {name: ood_interval(own, score) for name, (_, score) in SCORES.items()} for key, own in groups.items()}


def ood_interval(cells: Sequence[Cell], score: Score) -> Interval:
    """Mean of `ood_aurocs` and its 95 % bootstrap interval over held-out tasks and seeds; NaN without both kinds."""
    values = ood_aurocs(cells, score)
    return bootstrap_interval(values) if values.size else Interval(np.nan, np.nan, np.nan)


def _log_probs(cell: Cell) -> Tensor:
    # Exactly normalised; mutual information near 0 shows the rounding of float32 otherwise.
    return torch.log_softmax(cell.log_probs.double(), -1)
