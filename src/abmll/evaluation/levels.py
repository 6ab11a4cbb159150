"""What is to be had on a task without a model: chance, the commonest label, and the uniform distribution's NLL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from abmll.evaluation.predictions import Cell


class Levels(NamedTuple):
    """Of the query examples of one cell, or averaged over cells.

    Attributes:
        chance: accuracy of guessing, the mean over rows of one over the number of choices.
        majority: accuracy of always giving the commonest right answer of these very rows: with hindsight. For rows with
            choices of their own, the commonest place among them.
        uniform_nll: NLL of the uniform distribution in nats, the mean over rows of the log of the number of choices.
    """

    chance: float
    majority: float
    uniform_nll: float


def levels_of(cell: Cell) -> Levels:
    """The levels of a cell's query examples, whatever the method: absent choices hold -inf."""
    num_choices = (cell.log_probs[0] > -torch.inf).sum(1).double()
    commonest = torch.bincount(cell.targets).max() / len(cell.targets)
    return Levels(float((1 / num_choices).mean()), float(commonest), float(num_choices.log().mean()))


def mean_levels(levels: Iterable[Levels]) -> Levels:
    """Each level averaged; NaN if there are none."""
    columns = list(zip(*levels, strict=True))
    return Levels(*(sum(column) / len(column) for column in columns)) if columns else Levels(*[float("nan")] * 3)
